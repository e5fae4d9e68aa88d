"""A trial that a rung has stopped may go on: where the sampler `auto` expects more of it than of anything new."""

from collections import Counter
from pathlib import Path

import pytest

from search.backends import in_process, simulated
from search.backends.simulated import VirtualClock, create
from search.cli.progress import Lines
from search.config.study_file import StudyFile
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.study.study import Study
from search.trial import Decision, State
from trainables.simulated.surfaces import Surface, SurfaceTrainable

from .. import studies

SURFACE = Surface("crossing", 1)


def study_file(storage: Path, *, n_trials: int = 40, promote: bool = True) -> StudyFile:
    budget = {"n_trials": n_trials, "epochs": 9, "max_params": 50_000}
    return studies.study_file(storage, budget=budget, search={"rungs": {"grace": 1, "factor": 3, "promote": promote}, "seed": 1})


def simulated_study(file: StudyFile, *, n_workers: int = 1) -> Study:
    study = create(file, SURFACE, clock := VirtualClock())
    simulated.run(study, lambda: SurfaceTrainable(SURFACE), clock, n_workers=n_workers)
    return study


@pytest.mark.parametrize("n_workers", [1, 4])
def test_a_promoted_trial_goes_on_from_its_rung_and_repeats_no_epoch(tmp_path: Path, n_workers: int) -> None:
    study = simulated_study(study_file(tmp_path), n_workers=n_workers)
    events: list[Event] = study._ledger.events()
    promoted = [event for event in events if event.kind == "promoted"]
    assert promoted
    for event in promoted:
        before = [e for e in events if e.trial == event.trial and e.number < event.number]
        after = next(e for e in events if e.trial == event.trial and e.number > event.number)
        assert before[-1].kind == "pruned"
        assert event.detail["epoch"] == before[-1].detail["rung"]
        assert (after.kind, after.detail["epoch"]) == ("reported", event.detail["epoch"] + 1)
    reported = Counter((event.trial, event.detail["epoch"]) for event in events if event.kind == "reported")
    assert set(reported.values()) == {1}
    for trial in study.trials:
        assert trial.state in (State.COMPLETE, State.PRUNED)
        assert sum(number == trial.number for number, _ in reported) == trial.epochs
        assert (trial.rung is None) == (trial.state is State.COMPLETE)
    assert len(study.trials) == 40


def test_without_the_option_what_is_stopped_stays_stopped(tmp_path: Path) -> None:
    study = simulated_study(study_file(tmp_path, promote=False))
    assert any(trial.state is State.PRUNED for trial in study.trials)
    assert not any(event.kind == "promoted" for event in study._ledger.events())


def test_what_a_person_has_stopped_is_never_promoted(tmp_path: Path) -> None:
    study = create(study_file(tmp_path), SURFACE, VirtualClock())
    trainable, by_hand = SurfaceTrainable(SURFACE), set()
    while (trial := study.ask()) is not None:
        assert trial.number not in by_hand
        trainable.start(trial.config, seed=trial.seed, epochs=9, folder=None)
        for _ in range(trial.epochs):
            trainable.step()
        epoch = trial.epochs
        while not study.trials[trial.number].state.finished:
            epoch += 1
            study.report(trial.number, epoch, trainable.step())
            if trial.number % 3 == 2 and epoch == 2:
                study.tell(trial.number, State.PRUNED, "by hand")
                by_hand.add(trial.number)
    assert by_hand


def test_the_lines_of_a_run_tell_that_a_stopped_trial_continues_and_how_it_ends(tmp_path: Path) -> None:
    study = create(study_file(tmp_path), SURFACE, VirtualClock())
    lines, told, trainable = Lines(study), list[str](), SurfaceTrainable(SURFACE)
    while (trial := study.ask()) is not None:
        if trial.epochs:
            assert [*lines.new()] == [
                f"{trial.label} continues at epoch {trial.epochs + 1}: the search expects more of it than of a new trial"
            ]
            assert any(f"] {trial.label} pruned: val/top1 " in line for line in told)
        trainable.start(trial.config, seed=trial.seed, epochs=9, folder=None)
        for _ in range(trial.epochs):
            trainable.step()
        for epoch in range(trial.epochs + 1, 10):
            if study.report(trial.number, epoch, trainable.step()) is not Decision.CONTINUE:
                break
        told += lines.new()
        assert f"] {trial.label} {study.trials[trial.number].state.lower()}" in told[-1]
    assert max(Counter(line.split()[1] for line in told).values()) == 2


class Killed(BaseException):
    """The driver ends here."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The history of a study with promotions."""
    whole = Study.create(study_file(tmp_path_factory.mktemp("whole")), SURFACE)
    in_process.run(whole, SurfaceTrainable(SURFACE))
    assert history(whole.folder).count("promoted") >= 2
    return history(whole.folder)


@pytest.mark.parametrize("stops", [[150], [40, 60, 60], [100, 3, 90]])
@pytest.mark.slow
def test_a_study_with_promotions_goes_on_exactly_after_it_was_interrupted(
    tmp_path: Path, uninterrupted: str, stops: list[int]
) -> None:
    class Stops(SurfaceTrainable):
        """Ends its driver at the n-th epoch."""

        n = -1

        def step(self) -> dict[str, float]:
            if self.n == 0:
                raise Killed
            self.n -= 1
            return super().step()

    file = study_file(tmp_path / "parts")
    study = Study.create(file, SURFACE)
    for stop in stops:
        trainable = Stops(SURFACE)
        trainable.n = stop
        with pytest.raises(Killed):
            in_process.run(study, trainable)
        study.close()
        study = Study.open(file, SURFACE)
    in_process.run(study, SurfaceTrainable(SURFACE))
    assert history(study.folder) == uninterrupted


def history(folder: Path) -> str:
    """What happened, without times and without what tells of the interruption."""
    events = SqlLedger.open(folder / "ledger.db").events()
    return "\n".join(f"{e.kind} {e.trial} {dict(e.detail)}" for e in events if e.kind not in ("resumed", "opened", "restarted"))
