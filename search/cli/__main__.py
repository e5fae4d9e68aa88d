"""`python -m search.cli` is `paretune`."""

from search.cli import main

main()
