"""Commands that export from a study: export, export-adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, TrialNumber, complain, folder_of, print_json
from search.cli.terminal import Terminal

app = typer.Typer()


@app.command("export-adapter")
def export_adapter(
    study: StudyName,
    trial: TrialNumber,
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    *,
    form: Annotated[
        str | None,
        typer.Option("--format", help="paretune (default): for the frozen backbone; peft; merged: a plain timm model; or onnx."),
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="The same as --format merged.")] = False,
    rank: Annotated[int | None, typer.Option(min=1, help="peft: rank of the conversion to LoRA.")] = None,
    loses: Annotated[
        float | None,
        typer.Option(
            help="peft: take the smallest rank that loses at most this many points of accuracy; default: 0.2, LoRA: exact."
        ),
    ] = None,
    normalize_inside: Annotated[
        bool, typer.Option("--normalize-inside", help="onnx: take uint8 pixels and normalise them in the graph.")
    ] = False,
    hub: Annotated[bool, typer.Option("--hub", help="Add the card, picture and study file of a Hugging Face repository.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Export a trial's adapter with a descriptive card, for the backbone, PEFT, plain timm or ONNX; print the loading code."""
    from search.results.saved_study import load
    from search.trial import State
    from search.workflows.export_adapter import Format, export_adapter

    if merge and form not in (None, "merged"):
        raise typer.BadParameter(f"it is --format merged, and the format is {form}", param_hint="--merge")
    saved = load(folder_of(study, storage))
    chosen = Format("merged" if merge else form or "paretune", rank, loses, normalize_inside)
    card = export_adapter(saved, trial, to, form=chosen)
    if hub:
        from search.workflows.hub_folder import write_hub_files

        card = write_hub_files(saved, card, to)
    if card.origin["state"] != State.COMPLETE:
        done = "{done} of {planned} epochs".format(**card.epochs)
        complain(f"trial {trial} is {card.origin['state']}: the export has {done}")
    if as_json:
        print_json({"path": str(to), "file": card.file, "card": card.fields(), "load": card.lines(to)})
        return
    console = Terminal(soft_wrap=True)
    for line in card.facts():
        console.print(line)
    console.print(f"{to / card.file} and {to / 'card.json'} written; to load the adapter:\n\n{card.lines(to)}")


@app.command()
def export(
    study: StudyName,
    form: Annotated[str, typer.Option("--format", help="parquet, csv, or optuna (for optuna-dashboard).")] = "parquet",
    to: Annotated[Path | None, typer.Option(help="Target folder; default: the study's own.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Export a study for other programs: its front, trials and reports as tables, or an Optuna study."""
    from search.results.export import FORMATS, export_study
    from search.results.saved_study import load

    if form not in FORMATS:
        raise typer.BadParameter(f"{form!r} is not one of {', '.join(FORMATS)}", param_hint="--format")
    saved = load(folder_of(study, storage))
    for path in export_study(saved, to or saved.folder, form):
        Terminal(soft_wrap=True).print(str(path))
