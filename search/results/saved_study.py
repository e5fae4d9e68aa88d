"""Reading a study back: `search.load(folder)` gives a frozen picture of it, for notebooks and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.errors import RequestError
from search.front import front, hypervolume
from search.results import arrow_tables, front_plot, tables
from search.results.recommendation import answer
from search.results.study_state import StudyState, ended_by, find_state, with_measured
from search.storage import checkpoints as checkpoint_store
from search.storage.address import Address
from search.storage.checkpoints import Folder
from search.storage.events import EventKind
from search.storage.location import ledger_in
from search.storage.rows import Report, StudyRow
from search.storage.sql_ledger import SqlLedger
from search.trial import Trial, find_trial

if TYPE_CHECKING:
    import pyarrow as pa

    from spaces import Config


PICTURES = ("front.png", "front.svg", "front-small.png")  # of a front, beside the ledger; the small one fits into a description


@dataclass(frozen=True, repr=False)
class SavedStudy:
    """A study as it stood when it was loaded; nothing here changes it, and it does not follow what happens later.

    The tables are Arrow: `study.trials().to_pandas()`.

    Attributes:
        folder: Where everything of the study lies.
        record: What was fixed when the study was made: name, resolved file, facts.
        state: Where it stood.
        history: All trials in the order of their numbers.
        epochs: All reports in the order of arrival.
        rejections: The configurations refused before training, with the reasons.
        ended: Why nothing more starts although trials were left in the budget, or None.
    """

    folder: Path
    row: StudyRow
    state: StudyState
    history: tuple[Trial, ...]
    epochs: tuple[Report, ...]
    rejections: tuple[tuple[Config, str], ...]
    ended: str | None

    def trial(self, number: int) -> Trial:
        """Return one trial.

        Raises:
            RequestError: The study has no trial of that number.
        """
        try:
            return find_trial(self.history, number, f"study {self.name}")
        except ValueError as error:
            raise RequestError(str(error)) from None

    @property
    def name(self) -> str:
        """The study's name."""
        return self.row.name

    @property
    def checkpoints(self) -> Folder:
        """Where those of its trials lie, in `trials/NNNN`; the folder, unless the study names another place."""
        return checkpoint_store.checkpoint_folder(self.folder, self.name, self.row.facts.checkpoints)

    @property
    def members(self) -> tuple[Trial, ...]:
        """The front: the non-dominated COMPLETE trials, smallest first."""
        return tuple(front(self.history))

    @property
    def reference_point(self) -> tuple[float, float]:
        """(chance level, largest adapter): where the hypervolume is measured from."""
        return self.row.facts.reference_point

    @property
    def hypervolume(self) -> float:
        """The front's hypervolume, in accuracy x decades of parameters, or x shares of another cost's limit."""
        return hypervolume(self.history, self.reference_point)

    def front(self) -> pa.Table:
        """The front, smallest member first; columns as in `trials`."""
        return arrow_tables.trials_arrow(self.members, study=self.row)

    def trials(self) -> pa.Table:
        """One row per trial, one column per knob and per metric of the last epoch."""
        return arrow_tables.trials_arrow(self.history, study=self.row)

    def reports(self) -> pa.Table:
        """One row per epoch of every trial."""
        return arrow_tables.reports_arrow(self.epochs, study=self.row)

    @property
    def n_validation(self) -> int | None:
        """Images that accuracies were measured on, None where that is not known."""
        return self.row.facts.n_validation

    @property
    def against(self) -> str:
        """What accuracy is weighed against: `adapter_params`, or another cost."""
        return self.row.against

    @property
    def _size_in_words(self) -> str:
        return "adapter size" if self.against == "adapter_params" else self.against

    @property
    def answer(self) -> str:
        """The sentence that a colleague would write: which adapter is worth it (see `search.results.recommendation`)."""
        return answer(self.history, self.n_validation)

    def plot_front(self, *paths: Path) -> Any:
        """The front as an interactive figure of plotly; or, where files are named, drawn into these `.png` and `.svg` files."""
        if not paths:
            from search.results import plotly_figures

            return _interactive(plotly_figures.front_figure(self.history, self.reference_point, n_validation=self.n_validation))
        title = f"{self.name}: accuracy against {self._size_in_words}"
        front_plot.plot_front(
            self.history, *paths, title=title, reference_point=self.reference_point, n_validation=self.n_validation
        )
        return None

    def plot_hypervolume(self, *, over: str = "trials") -> Any:
        """How the hypervolume grew, as an interactive figure of plotly: over `trials`, or over `slot-seconds`."""
        from search.results import plotly_figures

        grown = plotly_figures.growth(self.history, self.epochs, self.reference_point)
        return _interactive(plotly_figures.hypervolume_figure(grown, over=over, against=self.against))

    @property
    def _stand(self) -> str:
        done = f"{len(self.history)} of {self.row.budget['n_trials']} trials, {self.state.lower()}"
        return f"{done} · hypervolume {self.hypervolume:.4f}"

    def __repr__(self) -> str:
        """Where it stands and its answer; all the fields together are some hundred kilobytes."""
        return f"{self.name} · {self._stand}\n{self.answer}"

    def _repr_html_(self) -> str:
        """The study in a notebook: the answer, where it stands, the front as table and picture."""
        import html

        words = f"<p><b>{html.escape(self.name)}</b> · {self._stand}</p><p>{html.escape(self.answer)}</p>"
        return f"{words}{tables.front_html(self.members)}{front_img(self)}"

    def write_views(self, *, complete: bool = False) -> None:
        """Put the front as picture and the trials as Parquet beside the ledger. They can be written anew at any time.

        Args:
            complete: Write what grows with every epoch, too.
        """
        arrow_tables.write_parquet(arrow_tables.trials_arrow(self.history, study=self.row), self.folder / "trials.parquet")
        arrow_tables.write_parquet(arrow_tables.trials_arrow(self.members, study=self.row), self.folder / "front.parquet")
        if complete:
            arrow_tables.write_parquet(arrow_tables.reports_arrow(self.epochs, study=self.row), self.folder / "reports.parquet")
        self.plot_front(*(self.folder / name for name in PICTURES))

    def write_page(self, *, links: Mapping[int, str] | None = None, server: str | None = None, importance: bool = True) -> None:
        """Put the interactive page beside the ledger: `front.html`.

        Args:
            links: Trial number to the address of its run.
            server: What those addresses are relative to.
            importance: Ask which knobs mattered, which takes a second or more.
        """
        from search.results import html_page, plotly_figures

        every, point = self.history, self.reference_point
        grown = plotly_figures.growth(every, self.epochs, point)
        size = "size" if self.against == "adapter_params" else self.against
        sections = [
            (
                "The front",
                f"Nothing beats its members in accuracy and {size} at once. Point at a trial for its knobs, click for its run.",
                plotly_figures.front_figure(every, point, n_validation=self.n_validation, links=links),
            ),
            ("Every method's own front", "", plotly_figures.methods_figure(every, point)),
            ("Hypervolume over trials", "", plotly_figures.hypervolume_figure(grown, against=self.against)),
        ]
        if any(seconds is not None for _, seconds, _ in grown):
            over = plotly_figures.hypervolume_figure(grown, over="slot-seconds", against=self.against)
            sections.append(("Hypervolume over slot-seconds", "", over))
        sections.append(
            ("Every trial at once", "Drag along an axis to keep a part of it.", plotly_figures.parallel_figure(every)),
        )
        if importance and (found := self._importance()):
            words = "The first-order Sobol index of a Gaussian process on what was tried."
            sections.append(("Which knobs mattered", words, plotly_figures.importance_figure(found)))
        text = html_page.page(f"{self.name}: accuracy against {self._size_in_words}", self.answer, sections, server=server)
        html_page.write(self.folder / "front.html", text)

    def _importance(self) -> Mapping[str, Mapping[str, float]]:
        from search.config.loading import check
        from search.results.importance import importance

        try:
            space = check(self.row.file).joint_space()
        except RequestError:  # of a version whose knobs are not known here
            return {}
        return importance(space, self.history, self.epochs)


def _interactive(figure: Mapping[str, Any]) -> Any:
    import plotly.graph_objects as go

    return go.Figure(figure)


def load(folder: str | Path, address: Address | None = None) -> SavedStudy:
    """The study that lies in a folder.

    Args:
        folder: The study's.
        address: Of its ledger, if the folder neither holds one nor points at one.

    Raises:
        LedgerError: if there is none, or it cannot be read.
    """
    ledger = SqlLedger.open(ledger_in(Path(folder)), address=address)
    try:
        record, trials = ledger.study(), ledger.trials()
        events = ledger.events()
        ended = ended_by(events)
        rejections = tuple((event.detail["config"], event.detail["reason"]) for event in events if event.kind is EventKind.REJECTED)
        state = find_state(record, trials, ended=ended is not None, owner=ledger.owner())
        history = tuple(with_measured(trials, events))
        return SavedStudy(Path(folder), record, state, history, tuple(ledger.reports()), rejections, ended)
    finally:
        ledger.close()


def front_img(study: SavedStudy) -> str:
    """The picture of a study's front inside an HTML element."""
    import base64
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "front-small.png"
        study.plot_front(path)
        return f'<img alt="the front" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
