"""The description of a study's run in Markdown: the first text that a reader sees in MLflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from search.front import front, hypervolume
from search.results import tables
from search.results.recommendation import answer
from search.results.study_state import StudyState
from search.results.words import format_budget
from search.storage.rows import StudyRow
from search.tracking.run_content import MAX_TAG_CHARACTERS, VIEW
from search.trial import PARAMETERS, State, Trial


def write_note(
    study: StudyRow,
    trials: Sequence[Trial],
    state: StudyState,
    *,
    links: Mapping[int, str],
    table: str,
    spent: tuple[int, float],
    picture: str | None = None,
    odds: Mapping[int, float] | None = None,
) -> str:
    """Write the question, the answer, the front, the state of the search, and filters for MLflow's table of runs.

    Args:
        study: The study.
        trials: All of its trials.
        state: State of the study.
        links: Address of the run of each trial.
        table: Address of MLflow's table of the study's runs.
        spent: Epochs of all trials, and their hours of training and validation.
        picture: Address of the front's picture.
        odds: Probability that a trial is truly on the front, by its number.
    """
    file, reference_point = study.file, study.facts.reference_point
    data = file["data"]["path"] if file["data"].get("path") else file["data"]["kind"]
    head = [
        f"### Which adapter of `{file['backbone']['name']}`, at which size, is worth training on `{data}`?",
        "",
        f"**{answer(trials, study.facts.n_validation)}**",
        "",
    ]
    drawn = [] if picture is None else ["", f"![The front: {study.metric.label} against {study.against}]({picture})"]
    foot = [*drawn, "", *_facts(study, trials, state, spent), "", *_filters(study, trials, table)]
    cells = tables.front_markdown(trials, links=links, odds=odds).splitlines()
    cells = [line.replace(" |", "&ensp;|") for line in cells]  # MLflow's cells have no margins
    objectives = f"{study.metric.label} and {'size' if study.against == 'adapter_params' else study.against}"
    title = f"#### Front: {len(front(trials))} adapters that no other beats in both {objectives} (hypervolume {{:.4f}})"
    rows = [title.format(hypervolume(trials, reference_point)), "", *cells]
    if not front(trials):
        return "\n".join([*head, *foot])
    room = MAX_TAG_CHARACTERS - len("\n".join([*head, *foot])) - 100
    kept: list[str] = []
    for line in rows:
        room -= len(line) + 1
        if room < 0:
            kept += ["", "The whole front is in `front.parquet`."]
            break
        kept.append(line)
    return "\n".join([*head, *kept, *foot])


def _facts(study: StudyRow, trials: Sequence[Trial], state: StudyState, spent: tuple[int, float]) -> list[str]:
    file, facts, budget = study.file, study.facts, study.budget
    backbone = file["backbone"]
    counts = {s: sum(t.state is s for t in trials) for s in State}
    standing = ", ".join(f"{n} {s.value.lower()}" for s, n in counts.items() if n)
    weights = f", weights `{backbone['weights']}`" if backbone.get("weights") else ""
    validation = study.facts.n_validation
    judged = f", judged on {validation:,} validation images" if validation else ""
    n_trials, largest = budget["n_trials"], study.limits
    of_all = "" if n_trials is None else f" of {n_trials}"
    return [
        "#### The search",
        "",
        f"- **State** {state.value.lower()}: {len(trials)}{of_all} trials started ({standing or 'none yet'})",
        f"- **Budget** {format_budget(budget)}, {largest}",
        f"- **Spent** {spent[0]:,} epochs, {spent[1]:,.3g} hours of training and validation, all trials together",
        f"- **Backbone** `{backbone['name']}`{weights}, {facts.backbone_params:,} frozen parameters",
        f"- **Data** `{file['data']['kind']}`, {facts.n_classes} classes{judged}",
        f"- **Methods** {', '.join(file['methods'])}, and head_only as the anchor",
    ]


def filters(method: str = "lora", limit: float = 10_000, rung: int = 5, cost: str = "adapter_params") -> dict[str, str]:
    """Return example queries for MLflow's table of runs, by purpose."""
    key = f"`{cost}`" if "/" in cost else cost
    return {
        "the front": "tags.`paretune.front` = 'true'",
        "one method": f"tags.`paretune.method` = '{method}'",
        "under a limit": f"metrics.{key} <= {limit} and tags.`paretune.trial` != ''",
        "stopped at a rung": f"tags.`paretune.state` = 'PRUNED' and tags.`paretune.rung` = '{rung}'",
    }


def _filters(study: StudyRow, trials: Sequence[Trial], table: str) -> list[str]:
    """Return the filters, with names and numbers of this study; each links to the table of runs, the best first."""
    members = front(trials)
    method = next((t.method for t in reversed(members) if t.adapter_params), "lora")
    if study.against in PARAMETERS:
        limit: float = 10 ** max(2, len(str(int(study.facts.reference_point[1]))) - 2)
    else:  # the middle of the front: half of its members cost no more
        limit = float(f"{members[len(members) // 2].size if members else study.facts.reference_point[1] / 2:.3g}")
    rung = min((t.rung for t in trials if t.rung is not None), default=5)
    order = (
        f"orderByKey=metrics.{quote(f'`{study.metric.key}`', safe='')}&orderByAsc={str(not study.metric.larger_is_better).lower()}"
    )
    rows = [
        f"| [{what}]({table}?searchFilter={quote(query, safe='')}&{order}) | `` {query} `` |"
        for what, query in filters(method, limit, rung, study.against).items()
    ]
    every = f"| [every trial]({table}?viewStateShareKey={VIEW}) | all, with {study.metric.label}, size, state and rank |"
    return ["#### Filters for the table of runs", "", "| | |", "|:--|:--|", every, *rows]
