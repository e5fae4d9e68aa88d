"""The module that makes `python -m search.cli` the same as `paretune`."""

from search.cli import main

main()
