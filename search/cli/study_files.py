"""Commands about study files and studies: validate, cp, ls."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from search.cli.cluster import list_jobs
from search.cli.options import (
    DEFAULT_STORAGE,
    Json,
    MaybeStudyFile,
    Overrides,
    Storage,
    complain,
    print_json,
)
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from search.config.study_file import StudyFile
    from trainables.protocol import Audit

app = typer.Typer()
_MOST_CLASSES = 20  # that `validate` prints with their counts


@app.command("ls")
def list_studies(
    server: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="A PostgreSQL database, instead of the storage folder.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    address: Annotated[
        str | None, typer.Option(envvar="PARETUNE_ADDRESS", metavar="URL", help="A Ray cluster: the studies of its jobs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the studies in the storage folder, in a database, or of a cluster."""
    from search.config.loading import packaged_names
    from search.errors import LedgerError, RequestError
    from search.names import LAW, shortened
    from search.results.overview import overview
    from search.storage.location import list_locations

    if address is not None:
        if server is not None:
            raise RequestError("ls: name a database or a cluster, not both; unset PARETUNE_ADDRESS to list the database")
        list_jobs(address, as_json=as_json)
        return
    listing = list_locations(storage, server)
    found, problems = [], []
    for listed in listing.studies:
        name, state, paused, where = listed.folder.name, "unreadable", False, str(listed.address or listed.folder)
        try:
            study = overview(listed.folder, listed.address)
            name, state = study.row.name, study.state.lower()
            paused = study.paused is not None
        except LedgerError as error:
            problems.append(str(error))
        found.append({"name": name, "state": state, "path": where} | ({"paused": True} if paused else {}))
    if as_json:
        print_json({"studies": found, "packaged": packaged_names()})
    else:
        table = Table("study", "state", "folder", box=None)
        for one in found:
            table.add_row(str(one["name"]), f"{one['state']}{', paused' if 'paused' in one else ''}", str(one["path"]))
        console = Terminal()
        console.print(table if found else f"No study in {server or storage}.")
        console.print(f"Packaged: {', '.join(packaged_names())} (paretune run NAME, paretune cp NAME)", soft_wrap=True)
    if listing.foreign:
        names = ", ".join(shortened(repr(name)) for name in listing.foreign)
        complain(f"left out, because their names are no study's ({LAW}): {names}")
    if problems:
        raise LedgerError("\n".join(problems))


@app.command()
def validate(
    study: MaybeStudyFile = None,
    overrides: Overrides = None,
) -> None:
    """Check everything until the first training step, without running it; print the resolved file with all defaults."""
    import yaml

    from search.cli.progress import Progress
    from search.config import loading
    from search.config.data_sections import Images
    from search.study.checks import notes_on
    from search.workflows.validation import validate as check_start

    file = loading.load(study, overrides or ())
    progress = Progress(Terminal(stderr=True))
    found = check_start(file, on_decoded=progress.decoded, on_tried=progress.tried)
    if found is not None and isinstance(file.data, Images):
        _print_data(file, found)
    if file.protocol is not None:
        _print_protocol(file)
    for note in notes_on(file) if found is None else notes_on(file, found.n_images.get("train"), found.classes):
        complain(note)
    sys.stdout.write(yaml.safe_dump(file.written(), sort_keys=False))


def _print_data(file: StudyFile, found: Audit) -> None:
    """Print what the data set holds, and what of it a search will not see."""
    from search.config.data_sections import Images
    from search.workflows.preflight import describe_skipped

    console = Terminal(stderr=True, soft_wrap=True)
    counts = ", ".join(f"{n:,} {split}" for split, n in found.n_images.items())
    console.print(f"data: {counts} images of {found.n_classes} classes")
    table = Table("class", box=None)
    for split in found.n_images:
        table.add_column(split, justify="right")
    for name, per_split in islice(found.classes.items(), _MOST_CLASSES):
        table.add_row(name, *(f"{n:,}" for n in per_split.values()))
    console.print(table)
    if len(found.classes) > _MOST_CLASSES:
        others = [per_split["train"] for per_split in list(found.classes.values())[_MOST_CLASSES:]]
        console.print(f"  and {len(others):,} more classes, with {min(others):,} to {max(others):,} training images each")
    if found.skipped:
        console.print(describe_skipped(found.skipped))
    for note in found.notes:
        console.print(f"data: {note}")
    if isinstance(file.data, Images) and found.n_turned:
        does = "are turned upright" if file.data.exif == "apply" else "stay as they are stored; data.exif: apply turns them upright"
        console.print(f"data: images with an EXIF orientation: {found.n_turned:,}; they {does}")
    if isinstance(file.data, Images) and found.n_transparent:
        does = (
            f"are put on {file.data.background}"
            if file.data.background
            else "show the colours stored below these; data.background: white (or black) puts them on a colour"
        )
        console.print(f"data: images with transparent pixels: {found.n_transparent:,}; they {does}")
    console.print(f"normalisation: {found.normalisation}")


def _print_protocol(file: StudyFile) -> None:
    """Print how the study differs from the protocol that it names."""
    from search.config.protocols import differences, protocol
    from search.results.words import format_value

    console = Terminal(stderr=True, soft_wrap=True)
    followed = protocol(name := str(file.protocol))
    console.print(f"protocol: {name}, {followed.source}")
    table = Table("other than in the protocol", "there", "here", box=None)
    for difference in differences(file.resolved()):
        table.add_row(difference.key, format_value(difference.protocol), format_value(difference.study))
    console.print(table if table.row_count else "  every key is as in the protocol")
    console.print(f"  published: {followed.selection}")
    console.print("  here: the last epoch; validation images choose, and only `finalize` sees test images")
    for sentence in followed.differs:
        console.print(f"  also: {sentence}")


@app.command()
def init(
    path: Annotated[Path, typer.Argument(metavar="FOLDER", help="Your images: a folder of folders, or what docs/data.md lists.")],
    to: Annotated[Path | None, typer.Argument(metavar="[STUDY.yaml]", help="Default: the folder's name, here.")] = None,
    *,
    hours: Annotated[float | None, typer.Option(min=0.01, help="Hours of the search; default: as many as it needs.")] = None,
    backbone: Annotated[str | None, typer.Option(metavar="NAME", help="A ViT of timm; default: a DINOv2 that fits here.")] = None,
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Its weights, a file or folder.")] = None,
) -> None:
    """Write a study file for your images: methods, image size, epochs and hours that fit this machine, each with its reason."""
    from search.errors import RequestError
    from search.workflows import init as starting

    target = to or Path(f"{starting.study_name(path)}.yaml")
    remedy = f"paretune init {path} OTHER.yaml"
    if target.exists():  # before the work
        raise RequestError(f"{target} exists; choose another path: {remedy}")
    found = starting.init(path, backbone=backbone, weights=weights, hours=hours, say=complain)
    _write_new(target, found.text, remedy)
    choice = found.choice
    console = Terminal(soft_wrap=True)
    console.print(
        f"{target} written: {len(choice.methods)} methods, {choice.epochs} epochs, about {choice.n_trials:,} trials in "
        f"{choice.hours:g} h. Read it, then run: paretune run {target}"
    )
    if not choice.fits:
        complain(
            f"{choice.hours:g} h are too few for a search that learns: {found.hours_needed:.2g} h would hold the fair start of its "
            "methods twice; give --hours that, or a smaller --backbone"
        )


@app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="A packaged study (`paretune ls` lists them).")],
    to: Annotated[Path | None, typer.Argument(help="Default: NAME.yaml in the current folder.")] = None,
) -> None:
    """Copy a packaged study file, which contains its own manual, as a starting point."""
    from search.config import loading

    text = loading.packaged_copy(name)
    target = to or Path(f"{name}.yaml")
    if target.is_dir():
        target /= f"{name}.yaml"
    _write_new(target, text, f"paretune cp {name} OTHER.yaml")
    Terminal().print(f"{target} written; edit it, then run: paretune run {target}", soft_wrap=True)


def _write_new(target: Path, text: str, remedy: str) -> None:
    """Write a file that does not exist.

    Raises:
        RequestError: If it exists, or cannot be written.
    """
    from search.errors import RequestError

    try:
        with target.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise RequestError(f"{target} exists; choose another path: {remedy}") from None
    except OSError as error:
        raise RequestError(f"{target} cannot be written ({error.strerror})") from None
