"""The progress display of a running study: live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.cli.terminal import Terminal
from search.config.sections import Budget
from search.config.study_file import StudyFile
from search.results import tables, words
from search.study.study import Study
from search.trial import State, Trial

_PLAIN_PERIOD_SECONDS = 0.5
_WAITING_IS_SAID_EVERY_SECONDS = 60.0
_MOMENT = 1.0  # seconds after which something is said of the first image


class Progress:
    """The display of a running study on a console.

    Args:
        console: Target console, bound to its own stream, because the libraries' output is kept off the terminal.
    """

    def __init__(self, console: Terminal) -> None:
        self._console = console
        self._decoding: RichProgress | None = None
        self._said = 0.0  # time of the last line about the first image

    def announce(self, file: StudyFile, budget: Budget) -> None:
        """Print what is about to run; the libraries take some seconds to load."""
        what = f"{file.backbone.name} on {file.data.kind}: {', '.join(file.methods)}"
        self._console.print(f"Study {file.study}: {what}\n{words.format_budget(budget.model_dump())}", soft_wrap=True)

    def decoded(self, n_done: int, n_images: int) -> None:
        """Show the decoding of a split's images, which happens once per machine."""
        if self._decoding is None:
            self._console.print("decoding images, once for this machine")
            self._decoding = RichProgress(console=self._console, transient=True, disable=not self._console.is_terminal)
            self._decoding.start()
            self._split = self._decoding.add_task("images", total=n_images)
        self._decoding.update(self._split, completed=n_done, total=n_images)
        if n_done == n_images:
            self._decoding.stop()
            self._decoding = None

    def tried(self, n_done: int, n_models: int) -> None:
        """Show the first image's way through the models of the methods, if it takes more than a moment."""
        now = time.monotonic()
        if n_done == 1:
            self._said = now
        elif now - self._said > _MOMENT:
            self._said = now
            self._console.print(f"one image through each model: {n_done} of {n_models}")

    @contextmanager
    def __call__(self, study: Study, at_a_time: str, waits_for: Callable[[], str | None]) -> Iterator[None]:
        """Show the study while the block runs.

        Args:
            study: Study to show.
            at_a_time: Number of trials at once, in words.
            waits_for: Callback that returns what the study waits for before any trial can run, None if it does not wait.
        """

        def waits() -> str | None:
            return waits_for() or study.waits_for

        clock = _Clock(study)
        known = f"; {len(study.trials)} trials already known" if study.trials else ""
        reserved = study.file.resources.of_a_trial(study.row.facts.memory)["memory_per_trial"]
        room = f", {reserved / 2**30:.1f} GiB of memory for each" if reserved else ""
        self._console.print(f"{at_a_time}{room}{known}", soft_wrap=True)
        if self._console.is_terminal:
            with Live(
                get_renderable=lambda: _picture(study, clock, waits()),
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            ):
                yield
            return
        ended = threading.Event()
        printer = threading.Thread(target=_print_lines, args=(self._console, study, clock, waits, ended), name="paretune-progress")
        printer.start()
        try:
            yield
        finally:
            ended.set()
            printer.join()


class _Clock:
    """The elapsed time, and the remaining time, estimated from the epochs left to train and the speed so far."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._began = time.monotonic()
        self._epochs_before = self.epochs_done()
        self._seconds_before = study.state.seconds

    def epochs_done(self) -> int:
        full = self._study.file.budget.epochs
        return sum(max(full, trial.epochs) if trial.state.finished else trial.epochs for trial in self._study.trials)

    def share(self) -> float:
        """Return the part of the budget that is used, in [0, 1]: of trials or of hours, whichever ends the study first."""
        budget, shares = self._study.file.budget, [0.0]
        if budget.n_trials is not None:
            shares.append(self.epochs_done() / (budget.epochs * budget.n_trials))
        if budget.max_hours is not None:
            shares.append(self.seconds_used() / (3600 * budget.max_hours))
        return min(1.0, max(shares))

    def seconds_used(self) -> float:
        """Return about the time that counts against `budget.max_hours`: that of earlier drivers, and of this one."""
        return self._seconds_before + self.elapsed()

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def left(self) -> float | None:
        if self._study.is_paused:
            return None
        budget, found = self._study.file.budget, list[float]()
        trained = self.epochs_done() - self._epochs_before
        if budget.n_trials is not None and trained:
            found.append(self.elapsed() / trained * (budget.epochs * budget.n_trials - self.epochs_done()))
        if budget.max_hours is not None:
            found.append(max(0.0, 3600 * budget.max_hours - self.seconds_used()))
        return min(found, default=None)


@contextmanager
def retraining(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many models of a study are retrained, on standard error; yield a callback for (finished models, all models).

    Off a terminal it is a line for each model.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Terminal(stderr=True)
    with RichProgress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(f"Finalizing {name}", total=None)

        def on_done(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)
            if not console.is_terminal:
                console.print(f"Finalizing {name}: {done} of {total} models")

        yield on_done


def _counts(trials: list[Trial], n_trials: int | None) -> str:
    by_state = Counter(trial.state for trial in trials)
    parts = [f"{_out_of(sum(t.state.finished for t in trials), n_trials)} trials"]
    parts += [
        f"{n} {state.lower()}" for state in (State.RUNNING, State.PAUSED, State.PRUNED, State.FAILED) if (n := by_state[state])
    ]
    return ", ".join(parts)


def _out_of(n_finished: int, n_trials: int | None) -> str:
    return f"{n_finished}" if n_trials is None else f"{n_finished}/{n_trials}"


def _picture(study: Study, clock: _Clock, waiting: str | None) -> RenderableType:
    trials = study.trials
    left = clock.left()
    numbers = Table.grid(padding=(0, 2))
    numbers.add_row(
        ProgressBar(total=1.0, completed=clock.share(), width=20),
        _counts(trials, study.file.budget.n_trials),
        f"{_span(clock.elapsed())} gone" + (f", {_span(left)} left" if left is not None else ""),
    )
    front = study.front()
    status = numbers if waiting is None else Group(numbers, waiting)
    if not front:
        return Group(status, Text("No trial is complete yet.", style="dim"))
    table = Constrain(tables.front_table(front), tables.TABLE_WIDTH)
    return Group(status, Text(f"Hypervolume {study.hypervolume():.4f}", style="dim"), table)


def _print_lines(console: Terminal, study: Study, clock: _Clock, waits: Callable[[], str | None], ended: threading.Event) -> None:
    lines, said = Lines(study), -math.inf
    while True:
        last_look = ended.wait(_PLAIN_PERIOD_SECONDS)
        if (waiting := waits()) is not None and time.monotonic() - said >= _WAITING_IS_SAID_EVERY_SECONDS:
            said = time.monotonic()
            console.print(waiting, soft_wrap=True)
        for line in lines.new(clock.left()):
            console.print(line, soft_wrap=True)
        if last_look:
            return


class Lines:
    """The lines of a study off a terminal: one for each trial that ends, or that continues after a rung had stopped it."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._ended = {trial.number for trial in study.trials if trial.state.finished}

    def new(self, left: float | None = None) -> Iterator[str]:
        """Yield the lines of what has happened since the last call.

        Args:
            left: Estimate of the seconds left, None if there is none.
        """
        for trial in self._study.trials:
            if trial.number in self._ended and not trial.state.finished:
                self._ended.remove(trial.number)
                if trial.runs:
                    how = "on another fold" if trial.n_folds else "from another seed"
                    yield f"{trial.label} is trained again, run {trial.run} {how}: the front depends on it"
                else:
                    yield f"{trial.label} continues at epoch {trial.epochs + 1}: the search expects more of it than of a new trial"
            elif trial.number not in self._ended and trial.state.finished:
                self._ended.add(trial.number)
                yield _line(self._study, trial, len(self._ended), left)


def _line(study: Study, trial: Trial, n_finished: int, left: float | None) -> str:
    line = f"[{_out_of(n_finished, study.file.budget.n_trials)}] {trial.label} {trial.state.lower()}"
    if trial.state is State.COMPLETE:
        line += "" if len(trial.runs) < 2 else f" again (run {len(trial.runs)})"
        line += f", {trial.objective} {trial.metric.format(trial.quality)} with {trial.adapter_params:,} adapter parameters"
    elif trial.reason:
        line += f": {trial.reason}"
    line += f"; hypervolume {study.hypervolume():.4f}"
    return line + (f", {_span(left)} left" if left else "")


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
