"""Commands that analyse a study: contribution of each method, importance of knobs, reproducibility of a trial, comparison."""

from __future__ import annotations

import math
from typing import Annotated, Any

import typer
from rich.table import Table

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, TrialNumber, folder_of, print_json
from search.cli.terminal import Terminal
from search.metrics import TOP1, Metric

app = typer.Typer()


@app.command()
def shares(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show each method's share of the search and its contribution to the front."""
    from search.results.contributions import contributions as shares_of
    from search.results.saved_study import load
    from search.results.tables import numbers_table

    saved = load(folder_of(study, storage))
    found = shares_of(saved.history, saved.reference_point)
    if as_json:
        print_json([vars(share) | {"front": [trial.number for trial in share.front]} for share in found])
        return
    names = ("method", "trials", "complete", "epochs", "own front", _best(saved.metric), "hypervolume", "contribution")
    table = numbers_table(names, n_words=1)
    for share in found:
        best = saved.metric.format(share.front[-1].quality) if share.front else "-"
        numbers = (share.n_trials, share.n_complete, share.n_epochs, len(share.front))
        table.add_row(share.method, *map(str, numbers), best, f"{share.hypervolume:.4f}", f"{share.contribution:.4f}")
    console = Terminal()
    console.print(table)
    console.print(
        f"Joint hypervolume {saved.hypervolume:.4f}; a contribution is what it would lose without the method.", style="dim"
    )


@app.command()
def answer(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    *,
    within: Annotated[float, typer.Option(metavar="POINTS", min=0, help="What may be lost: points, or hundredths.")] = 1.0,
    max_params: Annotated[
        float | None, typer.Option(metavar="SIZE", min=0, help="Largest size: parameters, or the study's other cost.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which adapter to take, how sure that is, what it will score, and what would change the answer."""
    from search.results.recommendation import describe_trial
    from search.results.saved_study import load
    from search.results.words import format_quantity

    saved = load(folder_of(study, storage))
    found = saved.sure_answer(within=within / 100, max_size=math.inf if max_params is None else max_params)
    if as_json:
        print_json(found.as_json())
        return
    console, belief = Terminal(), found.belief
    console.print(str(found))
    if found.choice is None:
        return
    table = Table("trial", "adapter", box=None, pad_edge=False, header_style="bold")
    metric = belief.trials[0].metric
    unit = " %" if metric.in_percent else ""
    for name in ("size", f"measured{unit}", f"expected{unit}", "90 % interval", "P(front)"):
        table.add_column(name, justify="right")
    p_front = belief.p_front()
    shown = {found.choice.index, found.choice.rival} - {None}
    by_size: dict[float, int] = {}
    for i, trial in enumerate(belief.trials):  # of trials of one size, the likeliest member
        by_size[trial.size] = max(i, by_size.get(trial.size, i), key=lambda n: (n in shown, p_front[n]))
    for i in sorted(i for i in by_size.values() if i in shown or p_front[i] >= 0.1):
        trial, (low, high) = belief.trials[i], map(metric.format, sorted(map(metric.score, belief.interval(i))))
        mark = "*" if i == found.choice.index else ""
        accuracies = map(metric.format, (trial.quality, metric.score(float(belief.mean[i]))))
        numbers = (format_quantity(trial.size), *accuracies, f"{low} to {high}", f"{p_front[i]:.2f}")
        table.add_row(f"{trial.number:04d}{mark}", describe_trial(trial), *numbers)
    console.print(table)


@app.command()
def importance(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show how much of the accuracy each knob of each method explains alone (first-order Sobol index of a surrogate)."""
    from search.config.loading import check_stored
    from search.results.importance import N_LEAST
    from search.results.importance import importance as importance_of
    from search.results.saved_study import load

    saved = load(folder_of(study, storage))
    found = importance_of(check_stored(saved.row.file).joint_space(), saved.history, saved.first_epochs, metric=saved.metric)
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

    beside = SideBySide(tuple(load(folder_of(study, storage)) for study in studies))
    if as_json:
        tables = {"studies": beside.studies(), "methods": beside.methods(), "fronts": beside.fronts()}
        print_json({name: table.to_pylist() for name, table in tables.items()})
        return
    console, metric = Terminal(), beside.metric
    for table in (beside.studies(), beside.methods()):
        names = [_best(metric) if name == "best" else name for name in table.column_names]
        shown = numbers_table(names, n_words=2)  # study and state, or study and method
        for row in table.to_pylist():
            shown.add_row(*(_cell(name, value, metric) for name, value in row.items()))
        console.print(shown)
    chance, largest = beside.reference_point
    from_where = f"{metric.words(metric.score(chance))} and {largest:,.6g} parameters"
    console.print(f"Hypervolumes of all studies count from {from_where}.", style="dim")
    files = [saved.row.file for saved in beside.saved]
    questions = sorted({f"{file['backbone']['name']} on {file['data']['kind']}" for file in files})
    if len(questions) > 1:
        console.print(f"The studies have different questions: {', '.join(questions)}.", style="dim")


def _best(metric: Metric) -> str:
    """Return the heading of the column with the best value of a metric."""
    return "best %" if metric.key == TOP1 else f"best {metric.name}{' %' if metric.in_percent else ''}"


def _cell(name: str, value: Any, metric: Metric) -> str:
    if value is None:
        return "-"
    if name == "best":
        return metric.format(value)
    return f"{value:,.4f}" if isinstance(value, float) else str(value)
