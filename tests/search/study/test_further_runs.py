"""Further runs: trials near the front are trained again, and everything that holds for epochs holds for them."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.backends import in_process, simulated
from search.backends.simulated import VirtualClock, create
from search.config.study_file import StudyFile
from search.pareto import Axis
from search.results.belief import Posterior, posterior
from search.results.noise import SEEDS, seed_deviation, standard_error
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.samplers.start import n_start
from search.storage import owner
from search.storage.events import EventKind
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.study.extension import Extension
from search.study.further_runs import RACING, choose_trial, epochs_spent
from search.study.study import Study
from search.study.user_requests import write_requests
from search.trial import State, Trial
from trainables.folder import RunFolder
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable
from trainables.simulated.surfaces import Surface, SurfaceTrainable

from .. import studies

EPOCHS = 4


def study_file(storage: Path, *, folds: int | None = 3, n_trials: int = 16, sampler: str = "random", **budget: Any) -> StudyFile:
    data = {"kind": "synthetic", "noise": 0.01} | ({"folds": folds} if folds else {})
    usual = {"n_trials": n_trials, "epochs": EPOCHS, "max_params": 20_000, "confirm": 0.25 if folds else None}
    budget = {**usual, **budget}
    return studies.study_file(
        storage, data=data, budget=budget, search={"sampler": sampler, "rungs": {"grace": 2, "factor": 3}, "seed": 2}
    )


def opened(file: StudyFile, *, new: bool = False) -> Study:
    return (Study.create if new else Study.open)(file, SyntheticSizes())


def finished(file: StudyFile, trainable: SyntheticTrainable | None = None) -> Study:
    study = opened(file, new=not (file.folder / "ledger.db").exists())
    in_process.run(study, trainable or SyntheticTrainable(noise=0.01))
    return study


def events_of(study: Study) -> list[Event]:
    return study._ledger.events()


def essence(study: Study) -> list[Any]:
    return [study.trials, list(study.state.front), study.hypervolume(), study.state.n_ended, study.state.last_front_change]


class Dies(SyntheticTrainable):
    """A trainable whose process dies after so many epochs of further runs."""

    def __init__(self, n_epochs: int) -> None:
        super().__init__(noise=0.01)
        self.left = n_epochs

    def step(self) -> dict[str, float]:
        found = super().step()
        if isinstance(self._folder, RunFolder):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return found


@pytest.mark.parametrize("folds", [3, None])
def test_a_trial_is_the_mean_of_its_runs_and_the_ledger_gives_the_same_back(tmp_path: Path, folds: int | None) -> None:
    study = finished(study_file(tmp_path, folds=folds, n_trials=24, sampler="auto", confirm=0.3))
    again = [trial for trial in study.trials if trial.runs]
    assert again
    for trial in again:
        assert trial.state is State.COMPLETE
        assert 2 <= len(trial.runs) <= (folds or 8)
        assert trial.epochs == EPOCHS * len(trial.runs)
        assert trial.quality == pytest.approx(np.mean([one["val/top1"] for one in trial.runs]))
        assert len(set(trial.values)) == len(trial.runs)  # each has a seed of its own
    continued = [event for event in events_of(study) if event.kind is EventKind.CONTINUED]
    assert Counter(event.trial for event in continued) == {trial.number: len(trial.runs) - 1 for trial in again}
    assert all(event.detail["fold"] == (event.detail["run"] - 1 if folds else 0) for event in continued)
    assert len({event.detail["seed"] for event in continued} | {trial.seed for trial in study.trials}) == 24 - 7 + len(continued)
    live = essence(study)
    study.close()
    with closing(opened(study.file)) as replayed:
        assert essence(replayed) == live
        assert replayed.finished
        assert replayed.ask() is None
    saved = load(study.folder)
    assert saved.state is StudyState.FINISHED
    assert [trial.objectives for trial in saved.history] == [trial.objectives for trial in study.trials]
    assert [row[1:] for row in SqlLedger.open(study.folder / "ledger.db").objectives()] == [
        trial.objectives for trial in study.trials if trial.is_complete
    ]
    assert not list(study.folder.glob("trials/*/run-*"))  # nothing needs the checkpoint of a further run


def test_further_runs_take_their_share_of_all_epochs_and_racing_half_of_it(tmp_path: Path) -> None:
    study = finished(study_file(tmp_path, n_trials=40, confirm=0.25))
    assert len(study.trials) == 30
    first, further = epochs_spent(study.trials, EPOCHS)
    assert 0 < further <= first / 3
    history = events_of(study)
    confirming = next(event.number for event in history if event.kind is EventKind.CONFIRMING)
    raced = [event for event in history if event.kind is EventKind.CONTINUED and event.number < confirming]
    n_first = sum(event.kind is EventKind.REPORTED and event.detail["epoch"] <= EPOCHS for event in history[:confirming])
    assert len(raced) * EPOCHS <= RACING * n_first / 3
    assert history[-1].kind is EventKind.ENDED


def test_on_every_back_end_the_history_is_the_same(tmp_path: Path) -> None:
    file = study_file(tmp_path / "a")
    real, memory = finished(file), create(study_file(tmp_path / "b"), SyntheticSizes(), clock := VirtualClock())
    simulated.run(memory, lambda: SyntheticTrainable(noise=0.01), clock, n_workers=1)

    def shape(study: Study) -> list[Any]:
        return [(event.kind, event.trial, event.detail) for event in events_of(study) if event.kind is not EventKind.OPENED]

    assert shape(real) == shape(memory)
    assert [replace(trial, started=0.0, finished=None) for trial in memory._ledger.trials()] == [
        replace(trial, started=0.0, finished=None) for trial in real.trials
    ]


def test_several_workers_never_have_two_runs_of_one_trial(tmp_path: Path) -> None:
    surface = Surface("crossing", 1)
    file = study_file(tmp_path, n_trials=30)
    study = create(file, surface, clock := VirtualClock())
    simulated.run(study, lambda: SurfaceTrainable(surface), clock, n_workers=5)
    assert study.finished
    running = set[int]()
    for event in events_of(study):
        assert event.trial is not None or event.kind in (
            EventKind.OPENED,
            EventKind.REJECTED,
            EventKind.CONFIRMING,
            EventKind.ENDED,
        )
        if event.kind is EventKind.CONTINUED and event.trial is not None:
            assert event.trial not in running
            running.add(event.trial)
        elif event.kind is EventKind.COMPLETED:
            running.discard(event.trial or 0)
    assert any(trial.runs for trial in study.trials)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return finished(study_file(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("n_epochs", [1, 4, 6])
def test_a_death_in_a_further_run_changes_nothing(uninterrupted: Study, tmp_path: Path, n_epochs: int) -> None:
    whole, file = uninterrupted, study_file(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        finished(file, Dies(n_epochs))
    with closing(SqlLedger.open(file.folder / "ledger.db")) as ledger:
        running = [trial for trial in ledger.trials() if trial.state is State.RUNNING]
        assert [bool(trial.runs) for trial in running] == [True]
    owner.claims.clear()  # as if that process were gone
    cut = finished(file)

    def facts(study: Study) -> list[Any]:
        return [(t.number, t.state, t.config, t.runs, t.metrics, t.epochs, t.reason) for t in study.trials]

    assert facts(cut) == facts(whole)
    assert not any(event.kind is EventKind.RESTARTED for event in events_of(cut))
    reported = Counter((event.trial, event.detail["epoch"]) for event in events_of(cut) if event.kind is EventKind.REPORTED)
    assert set(reported.values()) == {1}


@pytest.mark.parametrize("how", ["prune", "nan", "error", "memory"])
def test_a_further_run_that_ends_early_leaves_the_trial_complete_and_is_its_last(tmp_path: Path, how: str) -> None:
    class Ends(SyntheticTrainable):
        def step(self) -> dict[str, float]:
            found = super().step()
            if not isinstance(self._folder, RunFolder) or self._epoch < 2:
                return found
            number = int(str(self._folder).partition("/trials/")[2][:4])
            if how == "error":
                raise RuntimeError("the GPU fell off the bus")
            if how == "memory":
                raise MemoryError
            if how == "prune":
                write_requests(file.folder, "prune", [number], {"reason": "enough"})
                return found
            return found | {"train/loss": float("nan")}

    file = study_file(tmp_path)
    study = finished(file, Ends(noise=0.01))
    again = [trial for trial in study.trials if trial.runs]
    words = {
        "prune": "run 2: pruned by a user: enough",
        "nan": "run 2: train/loss is nan at epoch 2",
        "error": "run 2: RuntimeError",
        "memory": "run 2: out of memory 2 times",
    }
    assert again
    for trial in again:
        assert (trial.state, len(trial.runs), trial.metrics) == (State.COMPLETE, 1, trial.runs[0])
        assert str(trial.reason).startswith(words[how])
    live = essence(study)
    study.close()
    with closing(opened(file)) as replayed:
        assert essence(replayed) == live


def test_a_further_run_can_be_paused_and_goes_on(tmp_path: Path) -> None:
    paused: list[int] = []

    class Pauses(SyntheticTrainable):
        def step(self) -> dict[str, float]:
            found = super().step()
            if isinstance(self._folder, RunFolder) and not paused:
                paused.append(int(str(self._folder).partition("/trials/")[2][:4]))
                write_requests(file.folder, "pause", paused, {})
            elif paused and len(paused) == 1:
                paused.append(paused[0])
                write_requests(file.folder, "unpause", paused[:1], {})
            return found

    file = study_file(tmp_path)
    study = finished(file, Pauses(noise=0.01))
    kinds = [event.kind for event in events_of(study) if event.trial == paused[0]]
    assert kinds.index(EventKind.PAUSED) < kinds.index(EventKind.UNPAUSED)
    assert len(study.trials[paused[0]].runs) > 1


def test_the_study_ends_early_when_its_answer_is_sure(tmp_path: Path) -> None:
    study = finished(study_file(tmp_path, folds=None, n_trials=200, sure=0.6))
    assert len(study.trials) < 200
    assert "the answer is sure: trial" in str(study.ended)
    assert len(study.trials) >= n_start(3)


def test_an_extended_study_searches_again_and_then_confirms(tmp_path: Path) -> None:
    study = finished(study_file(tmp_path))
    n_before = len(study.trials)
    study.extend(Extension(more_trials=8))
    in_process.run(study, SyntheticTrainable(noise=0.01))
    assert len(study.trials) == n_before + 6
    kinds = [event.kind for event in events_of(study)]
    assert kinds.count(EventKind.CONFIRMING) == kinds.count(EventKind.ENDED) == 2


def test_a_study_without_the_fields_has_no_such_event_and_no_run(tmp_path: Path) -> None:
    study = finished(study_file(tmp_path, folds=None))
    assert len(study.trials) == 16
    assert not {event.kind for event in events_of(study)} & {EventKind.CONTINUED, EventKind.CONFIRMING, EventKind.ENDED}
    assert not any(trial.runs or trial.n_folds for trial in study.trials)


# -- which trial -----------------------------------------------------------------------------------------------------------------


def trial(number: int, size: int, values: list[float], n_folds: int | None = 5) -> Trial:
    made = Trial(
        number, State.COMPLETE, {"method": "lora", "lora.rank": 1}, 0, size, 10, EPOCHS, {"val/top1": values[0]}, n_folds=n_folds
    )
    return made.with_runs([{"val/top1": value} for value in values]) if len(values) > 1 else made


def test_the_run_that_is_chosen_is_the_one_that_moves_the_expected_front_most() -> None:
    trials = tuple(trial(n, 10**n, [0.9]) for n in range(4))
    mean, of_a_run = np.array([1.0, 2.0, 2.0, 2.5]), np.full(4, 0.05)
    covariance = np.diag([0.001, 0.02, 0.2, 0.02])
    covariance[1, 3] = covariance[3, 1] = 0.01
    axis, widths = Axis(10_000), np.diff(np.log10(1 + np.array([1.0, 10, 100, 1000, 10_000]))) / np.log10(10_001)
    rng, gains = np.random.default_rng(0), []

    def area(goodness: np.ndarray[Any, Any], variance: np.ndarray[Any, Any]) -> Any:
        return np.maximum.accumulate(-np.exp(-goodness + variance / 2), axis=-1) @ widths

    for n in range(4):  # the oracle: draw a truth and a measurement, and condition on it
        seen = mean[n] + rng.normal(0, np.sqrt(covariance[n, n] + of_a_run[n]), 200_000)
        gain = covariance[:, n] / (covariance[n, n] + of_a_run[n])
        after = mean + (seen - mean[n])[:, None] * gain
        gains.append(float(area(after, np.diag(covariance) - gain * covariance[:, n]).mean() - area(mean, np.diag(covariance))))
    found = Posterior(trials, mean, covariance, of_a_run)
    for allowed in itertools.chain.from_iterable(itertools.combinations(range(4), k) for k in (1, 2, 4)):
        best = max(allowed, key=lambda n: gains[n])
        chosen = choose_trial(found, axis, lambda t, allowed=allowed: t.number in allowed)  # type: ignore[misc]
        if gains[best] > 2e-4:
            assert chosen is not None
            assert gains[chosen.number] >= gains[best] - 2e-4
    assert choose_trial(found, axis, lambda t: False) is None


def test_the_noise_of_a_seed_is_drawn_from_the_assumption_to_what_runs_show() -> None:
    rng = np.random.default_rng(1)
    assert seed_deviation([trial(0, 1, [0.8])], 200) == SEEDS
    for true in (0.004, 0.03):
        many = [trial(n, n, list(0.8 + rng.normal(0, true, 4)), None) for n in range(100)]
        assert seed_deviation(many, 200) == pytest.approx(true, rel=0.2)
        few = seed_deviation(many[:2], 200)
        assert min(SEEDS, true) * 0.9 < few < max(SEEDS, true) * 1.1
        images = np.sqrt(0.8 * 0.2 / 200)
        folded = [trial(n, n, list(0.8 + rng.normal(0, np.hypot(true, images), 4))) for n in range(400)]
        assert seed_deviation(folded, 200) == pytest.approx(true, rel=0.6)


def test_more_runs_make_a_trial_surer(tmp_path: Path) -> None:
    space = study_file(tmp_path).joint_space()
    config = space.default("lora")
    once = [replace(trial(n, 10**n, [0.8 + n / 100]), config=config) for n in range(3)]
    often = [replace(trial(n, 10**n, [0.8 + n / 100] * 4), config=config) for n in range(3)]
    seeds = [replace(one, n_folds=None) for one in often]
    errors = [standard_error(some[0], 200) for some in (once, seeds, often)]
    assert errors[0] == pytest.approx(np.sqrt(0.8 * 0.2 / 200))  # images alone, as ever
    assert errors[1] > errors[0] > errors[2] > errors[0] / 2  # type: ignore[operator] # the spread of seeds counts as well
    variances = [np.diag(posterior(space, some, 200).covariance) for some in (once, seeds, often)]
    assert (variances[0] > variances[1]).all()  # of seeds only
    assert (variances[1] > variances[2]).all()  # of images, too
