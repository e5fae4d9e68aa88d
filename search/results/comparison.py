"""The comparison of several studies: their results on one scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.errors import RequestError
from search.front import hypervolume
from search.metrics import METRICS, TOP1, Metric
from search.results.contributions import contributions
from search.results.saved_study import SavedStudy

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, repr=False)
class SideBySide:
    """Several saved studies for comparison. The tables are Arrow: `.studies().to_pandas()`.

    All hypervolumes have the same reference point: the highest chance level and the largest adapter among the studies.

    Attributes:
        saved: Studies, in the order in which they are shown.

    Raises:
        RequestError: If they are judged by different metrics.
    """

    saved: tuple[SavedStudy, ...]

    def __post_init__(self) -> None:
        named = {study.metric.key: study.name for study in self.saved}
        if len(named) > 1:
            told = ", ".join(f"{name} by {key}" for key, name in named.items())
            raise RequestError(f"studies are compared by one metric, and these are judged by several: {told}; leave some out")

    @property
    def metric(self) -> Metric:
        """The metric of all studies."""
        return next((study.metric for study in self.saved), METRICS[TOP1])

    @property
    def reference_point(self) -> tuple[float, float]:
        """The reference point (score of a guess, parameters) of all hypervolumes."""
        points = [study.reference_point for study in self.saved]
        return max(chance for chance, _ in points), max(params for _, params in points)

    def studies(self) -> pa.Table:
        """Return one row per study: its state, its best accuracy (fraction) or other metric, its front's size and hypervolume."""
        import pyarrow as pa

        rows = [
            {
                "study": study.name,
                "state": study.state.value,
                "trials": len(study.history),
                "complete": sum(trial.is_complete for trial in study.history),
                "front": len(study.members),
                "best": study.members[-1].quality if study.members else None,
                "hypervolume": hypervolume(study.history, self.reference_point),
            }
            for study in self.saved
        ]
        return pa.Table.from_pylist(rows)

    def methods(self) -> pa.Table:
        """Return one row per study and method: trials, epochs, size and best of its own front, hypervolume, contribution."""
        import pyarrow as pa

        rows = [
            {
                "study": study.name,
                "method": share.method,
                "trials": share.n_trials,
                "epochs": share.n_epochs,
                "front": len(share.front),
                "best": share.front[-1].quality if share.front else None,
                "hypervolume": share.hypervolume,
                "contribution": share.contribution,
            }
            for study in self.saved
            for share in contributions(study.history, self.reference_point)
        ]
        return pa.Table.from_pylist(rows)

    def fronts(self) -> pa.Table:
        """Return the fronts as one table, each with its smallest member first; a knob that a study does not have is null."""
        import pyarrow as pa

        tables = [study.front() for study in self.saved]
        named = [
            t.add_column(0, "study", pa.array([s.name] * len(t), pa.string())) for s, t in zip(self.saved, tables, strict=True)
        ]
        return pa.concat_tables([table.replace_schema_metadata(None) for table in named], promote_options="permissive")

    def plot_fronts(self) -> Any:
        """Return the fronts in one interactive plotly figure."""
        import plotly.graph_objects as go

        from search.results.plotly_figures import fronts_figure

        return go.Figure(fronts_figure([(study.name, study.members) for study in self.saved], self.reference_point))

    def __repr__(self) -> str:
        return str(self.studies().to_pandas().to_string(index=False))

    def _repr_html_(self) -> str:
        answers = "".join(f"<p><b>{study.name}</b>: {study.answer}</p>" for study in self.saved)
        return answers + str(self.studies().to_pandas().to_html(index=False)) + str(self.methods().to_pandas().to_html(index=False))
