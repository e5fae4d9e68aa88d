"""`paretune learn`: a prior for studies of other data, from finished ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from search.cli.options import DEFAULT_STORAGE, Json, Storage, folder_of, print_json
from search.cli.terminal import Terminal

app = typer.Typer()


@app.command()
def learn(
    studies: Annotated[list[str], typer.Argument(metavar="STUDY...", help="Studies by name, folder or address.")],
    *,
    to: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="File of the prior, for search.prior.")],
    first: Annotated[int, typer.Option(min=0, max=100, help="Largest number of configurations to try first.")] = 10,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Learn from finished studies where the search of another data set should begin."""
    from search.errors import RequestError
    from search.results import words
    from search.results.saved_study import load
    from search.workflows.learn_prior import learn_prior

    if to.exists():
        raise RequestError(f"learn: {to} exists; name another file, or delete it")
    learnt = learn_prior([load(folder_of(study, storage)) for study in studies], n_first=first)
    to.write_text(learnt.prior.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if as_json:
        print_json({"file": str(to), "n_trials": learnt.n_trials, "first": learnt.prior.first, "shares": learnt.shares})
        return
    table = Table("method", "to try first", "fronts reached", title=f"Learnt from {learnt.n_trials} complete trials")
    table.columns[-1].justify = "right"
    for trial, share in zip(learnt.portfolio, learnt.shares, strict=True):
        table.add_row(words.METHOD_NAMES.get(trial.method, trial.method), words.describe_knobs(trial), f"{share:.0%}")
    console = Terminal()
    console.print(table)
    console.print("Fronts reached: mean share of the studies' hypervolumes that is expected with it and those above.", style="dim")
    console.print(f"A study file begins with it by search: {{prior: {to}}}", soft_wrap=True)
