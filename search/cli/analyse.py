"""Commands that analyse a study: contribution of each method, importance of knobs, reproducibility of a trial, comparison."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, TrialNumber, folder_of, print_json
from search.cli.terminal import Terminal

app = typer.Typer()


@app.command()
def shares(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show each method's share of the search and its contribution to the front."""
    from search.results.contributions import contributions as shares_of
    from search.results.saved_study import load
    from search.results.tables import numbers_table
    from search.results.words import format_percent

    saved = load(folder_of(study, storage))
    found = shares_of(saved.history, saved.reference_point)
    if as_json:
        print_json([vars(share) | {"front": [trial.number for trial in share.front]} for share in found])
        return
    names = ("method", "trials", "complete", "epochs", "own front", "best %", "hypervolume", "contribution")
    table = numbers_table(names, n_words=1)
    for share in found:
        best = format_percent(share.front[-1].metrics["val/top1"]) if share.front else "-"
        numbers = (share.n_trials, share.n_complete, share.n_epochs, len(share.front))
        table.add_row(share.method, *map(str, numbers), best, f"{share.hypervolume:.4f}", f"{share.contribution:.4f}")
    console = Terminal()
    console.print(table)
    console.print(
        f"Joint hypervolume {saved.hypervolume:.4f}; a contribution is what it would lose without the method.", style="dim"
    )


@app.command()
def importance(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show how much of the accuracy each knob of each method explains alone (first-order Sobol index of a surrogate)."""
    from search.config.loading import check_stored
    from search.results.importance import N_LEAST
    from search.results.importance import importance as importance_of
    from search.results.saved_study import load

    saved = load(folder_of(study, storage))
    found = importance_of(check_stored(saved.row.file).joint_space(), saved.history, saved.epochs)
    if as_json:
        print_json(found)
        return
    console = Terminal()
    if not found:
        console.print(f"No method has {N_LEAST} trials yet.")
    for method, knobs in found.items():
        table = Table("knob", "share", title=method, title_justify="left", title_style="bold", box=None)
        for key, share in knobs.items():
            table.add_row(key, f"{share:6.1%}")
        console.print(table)


@app.command()
def rerun(
    study: StudyName,
    trial: TrialNumber,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Train one trial again and compare every epoch with the ledger; exit code 1 if any number differs."""
    from search.results.saved_study import load
    from search.workflows.rerun import rerun as train_again

    epochs = train_again(load(folder_of(study, storage)), trial)
    same = sum(epoch.same for epoch in epochs)
    if as_json:
        print_json({"trial": trial, "same": same == len(epochs), "epochs": [vars(epoch) for epoch in epochs]})
    else:
        console = Terminal()
        for epoch in epochs:
            for key in epoch.then.keys() | epoch.now.keys():
                if epoch.then.get(key) != epoch.now.get(key):
                    console.print(f"epoch {epoch.epoch}: {key} was {epoch.then.get(key)}, is now {epoch.now.get(key)}")
        console.print(f"trial {trial}: {same} of {len(epochs)} epochs are identical to the last bit")
    if same < len(epochs):
        raise typer.Exit(1)


@app.command()
def compare(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Study names in the storage, or folders.")],
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Compare studies: fronts, hypervolume from one reference point, methods."""
    from search.results.comparison import SideBySide
    from search.results.saved_study import load
    from search.results.tables import numbers_table
    from search.results.words import format_percent

    beside = SideBySide(tuple(load(folder_of(study, storage)) for study in studies))
    if as_json:
        tables = {"studies": beside.studies(), "methods": beside.methods(), "fronts": beside.fronts()}
        print_json({name: table.to_pylist() for name, table in tables.items()})
        return
    console = Terminal()
    for table in (beside.studies(), beside.methods()):
        names = ["best %" if name == "best" else name for name in table.column_names]
        shown = numbers_table(names, n_words=2)  # study and state, or study and method
        for row in table.to_pylist():
            shown.add_row(*(_cell(name, value) for name, value in row.items()))
        console.print(shown)
    chance, largest = beside.reference_point
    console.print(f"Hypervolumes of all studies count from {format_percent(chance)} % and {largest:,.6g} parameters.", style="dim")
    files = [saved.row.file for saved in beside.saved]
    questions = sorted({f"{file['backbone']['name']} on {file['data']['kind']}" for file in files})
    if len(questions) > 1:
        console.print(f"The studies have different questions: {', '.join(questions)}.", style="dim")


def _cell(name: str, value: Any) -> str:
    from search.results.words import format_percent

    if value is None:
        return "-"
    if name == "best":
        return format_percent(value)
    return f"{value:,.4f}" if isinstance(value, float) else str(value)
