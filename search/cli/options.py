"""What several commands of the command line take, and how they speak."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

DEFAULT_STORAGE = Path("paretune-studies")


def _folder(storage: Path) -> Path:
    """The folder that `--storage` names.

    Raises:
        RequestError: It names no folder.
    """
    from search.errors import RequestError
    from search.storage import object_store

    if object_store.is_address(str(storage)):
        raise RequestError("--storage: name the folder in which the ledger, or its pointer, lies; checkpoints are found through it")
    return storage


Storage = Annotated[
    Path, typer.Option(envvar="PARETUNE_STORAGE", help="The folder that holds the studies.", callback=_folder, metavar="FOLDER")
]
MaybeStorage = Annotated[
    str | None, typer.Option(envvar="PARETUNE_STORAGE", help="Where studies are kept: a folder, or s3://bucket/folder.")
]
StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="A study's name under the storage, its folder, or its address.")]
MaybeStudyFile = Annotated[
    str | None, typer.Argument(metavar="[STUDY.yaml]", help="A study file; none: the packaged digits study.")
]
TrialNumber = Annotated[int, typer.Argument(min=0, help="The trial's number.")]
MaybeSlots = Annotated[
    int | None,
    typer.Option(min=1, help="Trials at once, at most; default: what there is room for, where an autoscaler makes room for 8."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for other programs.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="a.b=c", help="Override a key; may be repeated.")]


def folder_of(study: str, storage: Path) -> Path:
    """The folder of a study that is given by its name, its folder, or its address on a PostgreSQL server."""
    from search.storage import address, location

    if address.is_address(study):
        return location.attach_study(study, storage)
    return Path(study) if location.ledger_in(Path(study)).exists() else storage / study


def complain(message: str) -> None:
    """Tell a person what went otherwise than expected."""
    console = Console(stderr=True)
    console.print(f"paretune: {message}", style="red", highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """What `--json` asks for, on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
