"""The command line: one file per family of commands. A command reads its arguments, calls a workflow, and prints."""

import os
import sys


def main() -> None:
    """Run the command line: the entry point of `paretune`."""
    try:
        from search.cli.app import main as run  # late, so that importing one file of this room does not load all commands
    except KeyboardInterrupt:  # while the commands are imported: nothing has begun
        sys.stderr.write("paretune: interrupted\n")
        sys.stderr.flush()
        os._exit(1)
    run()
