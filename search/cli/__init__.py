"""The command line: one file per family of commands. A command reads its arguments, calls a workflow, and prints."""


def main() -> None:
    """Run the command line: the entry point of `paretune`."""
    from search.cli.app import main as run  # late, so that importing one file of this room does not load all commands

    run()
