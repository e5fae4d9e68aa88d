"""Shared command-line options, and helpers for printing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli.terminal import Terminal

DEFAULT_STORAGE = Path("paretune-studies")


def _folder(storage: Path) -> Path:
    """Return the folder that `--storage` names.

    Raises:
        RequestError: If it names an address instead of a folder.
    """
    from search.errors import RequestError
    from search.storage import object_store

    if object_store.is_address(str(storage)):
        raise RequestError("--storage: name the folder of the ledger or its pointer; checkpoints are found through it")
    return storage


Storage = Annotated[
    Path, typer.Option(envvar="PARETUNE_STORAGE", help="Folder of the studies.", callback=_folder, metavar="FOLDER")
]
MaybeStorage = Annotated[
    str | None, typer.Option(envvar="PARETUNE_STORAGE", help="Storage of the studies: a folder, or s3://bucket/folder.")
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name in the storage, its folder, or its address.")]
MaybeStudyFile = Annotated[str | None, typer.Argument(metavar="[STUDY.yaml]", help="A study file; none: the packaged study emoji.")]
TrialNumber = Annotated[int, typer.Argument(min=0, help="Number of the trial.")]
MaybeSlots = Annotated[
    int | None,
    typer.Option(min=1, help="Maximum number of concurrent trials; default: as many as fit, or up to 8 with an autoscaler."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key; repeatable.")]


def folder_of(study: str, storage: Path) -> Path:
    """Return the folder of a study that is given by its name, its folder, or its address on a PostgreSQL server."""
    from search.errors import RequestError
    from search.storage import address, location, object_store

    if address.is_address(study):
        return location.attach_study(study, storage)
    if object_store.is_address(study):
        raise RequestError("STUDY: name a study, its folder, or its address, postgresql://[user@]host[:port]/database/study")
    return Path(study) if location.ledger_in(Path(study)).exists() else storage / study


def complain(message: str) -> None:
    """Print a problem to standard error; a terminal would break its lines within words."""
    from search.secret import hide_secrets

    console = Terminal(stderr=True)
    console.print(f"paretune: {hide_secrets(message)}", style="red", soft_wrap=not console.is_terminal)


def print_json(value: Any) -> None:
    """Print the JSON of `--json` to standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
