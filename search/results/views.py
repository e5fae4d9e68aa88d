"""The files that show a study, next to its ledger: tables as Parquet, pictures, and the interactive page. All can be rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from search.errors import RequestError
from search.results import arrow_tables
from search.results.saved_study import SavedStudy

if TYPE_CHECKING:
    from search.results.belief import Belief

PICTURES = ("front.png", "front.svg", "front-small.png")  # of the front; the small one is for descriptions


def write_views(study: SavedStudy, *, complete: bool = False) -> None:
    """Write pictures of the front, and the trials as Parquet, next to the ledger. They can be rewritten at any time.

    Args:
        study: Loaded study.
        complete: True to also write the files that grow with every epoch.
    """
    arrow_tables.write_parquet(arrow_tables.trials_arrow(study.history, study=study.row), study.folder / "trials.parquet")
    arrow_tables.write_parquet(arrow_tables.trials_arrow(study.members, study=study.row), study.folder / "front.parquet")
    if complete:
        arrow_tables.write_parquet(arrow_tables.reports_arrow(study.epochs, study=study.row), study.folder / "reports.parquet")
    study.plot_front(*(study.folder / name for name in PICTURES))


def write_page(
    study: SavedStudy, *, links: Mapping[int, str] | None = None, server: str | None = None, importance: bool = True
) -> None:
    """Write the interactive page `front.html` next to the ledger.

    Args:
        study: Loaded study.
        links: Address of the run of each trial.
        server: Base address of those addresses.
        importance: True to compute how sure the answer is and how much knobs matter, which takes a second or more.
    """
    from search.results import curves_figure, html_page, plotly_figures
    from search.results.growth import growth
    from search.results.sure_answer import SureAnswer

    every, point = study.history, study.reference_point
    grown = growth(every, study.epochs, point)
    size = "size" if study.against == "adapter_params" else study.against
    named: Mapping[str, Any] = {"metric": study.metric, "against": study.against}
    belief = _belief(study) if importance else None
    odds = None if belief is None else belief.odds()
    sections = [
        (
            "The front",
            f"No trial beats its members in both {study.metric.label} and {size}. "
            "Hover over a trial for its knobs, click for its run.",
            plotly_figures.front_figure(every, point, n_validation=study.n_validation, links=links, odds=odds),
        ),
        (
            "Learning curves",
            "Strong lines are members of the front."
            + (f" The best {most} trials are drawn." if len(every) > (most := curves_figure.MOST_CURVES) else ""),
            curves_figure.curves_figure(every, study.first_epochs),
        ),
        ("Every method's own front", "", plotly_figures.methods_figure(every, point)),
        ("Hypervolume over trials", "", plotly_figures.hypervolume_figure(grown, **named)),
    ]
    sections.append(("Hypervolume over epochs", "", plotly_figures.hypervolume_figure(grown, over="epochs", **named)))
    if any(one.seconds is not None for one in grown):
        over = plotly_figures.hypervolume_figure(grown, over="hours", **named)
        words = "Hours of training and validation of all trials together; pauses of the study do not count."
        sections.append(("Hypervolume over trained hours", words, over))
    sections.append(
        ("Every complete trial at once", "Drag along an axis to select a range.", plotly_figures.parallel_figure(every)),
    )
    mattered = _importance(study) if importance else {}
    if mattered:
        words = "The first-order Sobol index of a Gaussian process fitted to the trials."
        sections.append(("Which knobs mattered", words, plotly_figures.importance_figure(mattered)))
    title = f"{study.name}: {study.metric.label} against {study.size_in_words}"
    more = "" if belief is None else str(SureAnswer.of(belief))
    if importance and not mattered:
        more += " Which knobs mattered cannot be told before a method has eight trials."
    text = html_page.page(title, study.answer, sections, more=more, server=server)
    html_page.write(study.folder / "front.html", text)


def _belief(study: SavedStudy) -> Belief | None:
    try:
        return study.belief() if study.members else None
    except RequestError:  # written by a version with knobs that this version does not know
        return None


def _importance(study: SavedStudy) -> Mapping[str, Mapping[str, float]]:
    from search.config.loading import check_stored
    from search.results.importance import importance

    try:
        space = check_stored(study.row.file).joint_space()
    except RequestError:  # written by a version with knobs that this version does not know
        return {}
    return importance(space, study.history, study.first_epochs, metric=study.metric)
