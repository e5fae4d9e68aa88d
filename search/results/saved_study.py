"""A study loaded from its folder: `search.load(folder)` returns a frozen snapshot, for notebooks and the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import RequestError
from search.front import beside, front, hypervolume
from search.metrics import Metric
from search.results import arrow_tables, front_plot, tables
from search.results.recommendation import answer
from search.results.study_state import StudyState, ended_by, find_state, with_measured
from search.storage import checkpoints as checkpoint_store
from search.storage.address import Address
from search.storage.checkpoints import Folder
from search.storage.events import EventKind
from search.storage.location import ledger_in
from search.storage.rows import Counts, Report, StudyRow
from search.storage.runs import is_repeated
from search.storage.sql_ledger import SqlLedger
from search.trial import Trial, find_trial

if TYPE_CHECKING:
    import pyarrow as pa

    from search.results.belief import Belief
    from search.results.sure_answer import SureAnswer
    from spaces import Config


@dataclass(frozen=True, repr=False)
class SavedStudy:
    """A snapshot of a study at the time of loading; it is read-only and does not follow later changes.

    The tables are Arrow: `study.trials().to_pandas()`.

    Attributes:
        folder: Folder of the study.
        row: Fixed properties of the study: name, resolved file, facts.
        state: State of the study.
        history: All trials in the order of their numbers.
        epochs: All reports in the order of arrival.
        rejections: Configurations rejected before training, with the reasons.
        ended: Reason why no more trials start although the budget has some left, or None.
        openings: Tokens of the drivers that have opened it, if its checkpoints are not in its folder.
    """

    folder: Path
    row: StudyRow
    state: StudyState
    history: tuple[Trial, ...]
    epochs: tuple[Report, ...]
    rejections: tuple[tuple[Config, str], ...]
    ended: str | None
    openings: tuple[str, ...] = ()

    def trial(self, number: int) -> Trial:
        """Return one trial.

        Raises:
            RequestError: If the study has no trial of that number.
        """
        try:
            return find_trial(self.history, number, f"study {self.name}")
        except ValueError as error:
            raise RequestError(str(error)) from None

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.row.name

    @property
    def checkpoints(self) -> Folder:
        """The folder of the trials' checkpoints, `trials/NNNN`; the study's own folder unless its file names another location."""
        return checkpoint_store.checkpoint_folder(self.folder, self.name, self.row.facts.checkpoints)

    def own_checkpoints(self) -> Folder:
        """Return the folder of the trials' checkpoints, to change it.

        Raises:
            LedgerError: If they are another study's, or in use by another copy of its ledger.
        """
        if self.checkpoints != self.folder:
            checkpoint_store.refuse_foreign(self.checkpoints, self.row.uid, self.openings)
        return self.checkpoints

    @property
    def members(self) -> tuple[Trial, ...]:
        """The front: the non-dominated COMPLETE trials, smallest first."""
        return tuple(front(self.history))

    @property
    def extended(self) -> tuple[Trial, ...]:
        """The COMPLETE trials with more epochs than the budget's, smallest first; they are not compared with the front."""
        return tuple(beside(self.history))

    @property
    def reference_point(self) -> tuple[float, float]:
        """The reference point of the hypervolume: (score of a guess, largest adapter); see `search.metrics`."""
        return self.row.facts.reference_point

    @property
    def hypervolume(self) -> float:
        """The hypervolume of the front, in score x decades of parameters, or x shares of another cost's limit."""
        return hypervolume(self.history, self.reference_point)

    def front(self) -> pa.Table:
        """Return the front, smallest member first; the columns are those of `trials`."""
        return arrow_tables.trials_arrow(self.members, study=self.row)

    def trials(self) -> pa.Table:
        """Return one row per trial, with one column per knob and per metric of the last epoch."""
        return arrow_tables.trials_arrow(self.history, study=self.row)

    def reports(self) -> pa.Table:
        """Return one row per epoch of every trial."""
        return arrow_tables.reports_arrow(self.epochs, study=self.row)

    @property
    def first_epochs(self) -> tuple[Report, ...]:
        """The reports of the first run of each trial; those of further runs, on other folds or from other seeds, are left out."""
        if not is_repeated(self.row.file):
            return self.epochs
        usual = int(self.row.budget["epochs"])
        longer = {trial.number for trial in self.history if trial.planned_epochs is not None}
        return tuple(report for report in self.epochs if report.epoch <= usual or report.trial in longer)

    @property
    def n_validation(self) -> int | None:
        """The number of images that accuracies were measured on, None if it is unknown."""
        return self.row.facts.n_validation

    @property
    def metric(self) -> Metric:
        """The metric of the first objective: accuracy, or another one of `search.metrics`."""
        return self.row.metric

    @property
    def against(self) -> str:
        """The second objective, weighed against accuracy: `adapter_params` or another cost."""
        return self.row.against

    @property
    def size_in_words(self) -> str:
        """The second objective, as titles name it."""
        return "adapter size" if self.against == "adapter_params" else self.against

    @property
    def answer(self) -> str:
        """The recommendation in one sentence (see `search.results.recommendation`)."""
        return answer(self.history, self.n_validation)

    def sure_answer(self, *, within: float = 0.01, max_size: float = math.inf) -> SureAnswer:
        """Choose the smallest adapter that truly loses at most `within` (fraction) against the best with probability 0.9.

        Raises:
            RequestError: If this version does not know all knobs of the study.
        """
        from search.results.sure_answer import SureAnswer

        return SureAnswer.of(self.belief(), within=within, max_size=max_size)

    def belief(self) -> Belief:
        """Return the belief about the true scores of the complete trials (see `search.results.belief`).

        Raises:
            RequestError: If this version does not know all knobs of the study.
        """
        from search.results.belief import belief_of

        return belief_of(self.row, self.history)

    def plot_front(self, *paths: Path) -> Any:
        """Return the front as an interactive plotly figure, or draw it into the given `.png` and `.svg` files."""
        if not paths:
            from search.results import plotly_figures

            return _interactive(plotly_figures.front_figure(self.history, self.reference_point, n_validation=self.n_validation))
        title = f"{self.name}: {self.metric.label} against {self.size_in_words}"
        front_plot.plot_front(
            self.history, *paths, title=title, reference_point=self.reference_point, n_validation=self.n_validation
        )
        return None

    def plot_hypervolume(self, *, over: str = "trials") -> Any:
        """Return an interactive plotly figure of the hypervolume's growth over `trials`, `epochs`, `hours` or `slot-seconds`.

        Hours and slot-seconds are those of training and validation, of all trials together.
        """
        from search.results import plotly_figures
        from search.results.growth import growth

        grown = growth(self.history, self.epochs, self.reference_point)
        return _interactive(plotly_figures.hypervolume_figure(grown, over=over, metric=self.metric, against=self.against))

    @property
    def _stand(self) -> str:
        n_trials = self.row.budget["n_trials"]
        done = f"{len(self.history)}{'' if n_trials is None else f' of {n_trials}'} trials, {self.state.lower()}"
        return f"{done} · hypervolume {self.hypervolume:.4f}"

    def __repr__(self) -> str:
        """Return state and answer; all fields together would be some hundred kilobytes."""
        return f"{self.name} · {self._stand}\n{self.answer}"

    def _repr_html_(self) -> str:
        """Return the study for a notebook: the answer, its state, the front as table and picture."""
        import html

        words = f"<p><b>{html.escape(self.name)}</b> · {self._stand}</p><p>{html.escape(self.answer)}</p>"
        return f"{words}{tables.front_html(self.members)}{front_img(self)}"


def _interactive(figure: Mapping[str, Any]) -> Any:
    import plotly.graph_objects as go

    return go.Figure(figure)


def load(folder: str | Path, address: Address | None = None) -> SavedStudy:
    """Load the study in a folder.

    Args:
        folder: Folder of the study.
        address: Address of its ledger, if the folder neither contains one nor refers to one.

    Raises:
        LedgerError: If there is no study, or it cannot be read.
    """
    ledger = SqlLedger.open(ledger_in(Path(folder)), address=address)
    try:
        record, trials = ledger.study(), ledger.trials()
        events = ledger.events()
        ended = ended_by(events)
        rejections = tuple((event.detail["config"], event.detail["reason"]) for event in events if event.kind is EventKind.REJECTED)
        state = find_state(record, Counts.of(trials), ended=ended is not None, owner=ledger.owner())
        history = tuple(with_measured(trials, events))
        openings = tuple(event.detail["mark"] for event in events if event.kind is EventKind.OPENED and "mark" in event.detail)
        return SavedStudy(Path(folder), record, state, history, tuple(ledger.reports()), rejections, ended, openings)
    finally:
        ledger.close()


def front_img(study: SavedStudy) -> str:
    """Return the picture of a study's front as an HTML element."""
    import base64
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "front-small.png"
        study.plot_front(path)
        return f'<img alt="the front" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
