"""Commands about study files and studies: validate, cp, ls."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from search.cli.options import (
    DEFAULT_STORAGE,
    Json,
    MaybeStudyFile,
    Overrides,
    Storage,
    complain,
    print_json,
)

if TYPE_CHECKING:
    from search.config.study_file import StudyFile

app = typer.Typer()


@app.command("ls")
def list_studies(
    server: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="A PostgreSQL database, instead of the storage folder.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """List the studies in the storage folder, or in a database."""
    from search.config.loading import packaged_names
    from search.errors import LedgerError
    from search.results.saved_study import load
    from search.storage.location import list_locations

    found, problems = [], []
    for listed in list_locations(storage, server):
        name, state, where = listed.folder.name, "unreadable", str(listed.address or listed.folder)
        try:
            saved = load(listed.folder, listed.address)
            name, state = saved.name, saved.state.lower()
        except LedgerError as error:
            problems.append(str(error))
        found.append({"name": name, "state": state, "path": where})
    if as_json:
        print_json({"studies": found, "packaged": packaged_names()})
    else:
        table = Table("study", "state", "folder", box=None)
        for one in found:
            table.add_row(one["name"], one["state"], one["path"])
        console = Console(highlight=False)
        console.print(table if found else f"No study in {server or storage}.")
        console.print(f"Packaged: {', '.join(packaged_names())} (paretune run NAME, paretune cp NAME)", soft_wrap=True)
    if problems:
        raise LedgerError("\n".join(problems))


@app.command()
def validate(
    study: MaybeStudyFile = None,
    overrides: Overrides = None,
) -> None:
    """Check a study file and its images without running it; print the resolved file with all defaults."""
    import yaml

    from search.config import loading
    from search.config.sections import Images

    file = loading.load(study, overrides or ())
    if isinstance(file.data, Images):
        _audit_images(file)
    sys.stdout.write(yaml.safe_dump(file.resolved(), sort_keys=False))


def _audit_images(file: StudyFile) -> None:
    """Decode the images if this machine has not yet, and print their counts to standard error, apart from the resolved file."""
    from search.cli.progress import Progress
    from search.errors import RequestError
    from search.workflows.preflight import describe_skipped
    from trainables import audit

    worker = file.worker()
    try:
        found = audit(worker["backbone"], worker["data"], progress=Progress(Console(stderr=True)).decoded)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if found is not None:
        if found.skipped:
            complain(describe_skipped(found.skipped))
        counts = ", ".join(f"{n:,} {split}" for split, n in found.n_images.items())
        complain(f"data: {counts} images of {found.n_classes} classes")


@app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="A packaged study (`paretune ls` lists them).")],
    to: Annotated[Path | None, typer.Argument(help="Default: NAME.yaml in the current folder.")] = None,
) -> None:
    """Copy a packaged study file, which contains its own manual, as a starting point."""
    from search.config import loading
    from search.errors import RequestError

    text = loading.packaged_text(name)
    target = to or Path(f"{name}.yaml")
    if target.is_dir():
        target /= f"{name}.yaml"
    try:
        with target.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise RequestError(f"{target} exists; choose another path: paretune cp {name} OTHER.yaml") from None
    except OSError as error:
        raise RequestError(f"{target} cannot be written ({error.strerror})") from None
    Console().print(f"{target} written; edit it, then run: paretune run {target}", highlight=False, soft_wrap=True)
