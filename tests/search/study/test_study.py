"""The study's laws, on synthetic surfaces whose fronts are known in closed form."""

import json
import math
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.backends import in_process
from search.errors import OwnedElsewhere, StudyFileError
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.study.extension import Extension
from search.study.next_trial import MAX_REJECTIONS_IN_A_ROW, max_rejections
from search.study.study import Study
from search.trial import Decision, State, Trial
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable, best

from ..studies import Clock, new_study, next_trial, study_file

GOOD = {"val/top1": 0.5, "val/loss": 1.0, "train/loss": 1.0}


def history(study: Study) -> list[tuple[str, int | None, str]]:
    """The ledger's events without their times."""
    events: list[Event] = SqlLedger.open(study.folder / "ledger.db").events()
    return [(event.kind, event.trial, json.dumps(dict(event.detail))) for event in events]


@pytest.mark.parametrize(("sampler", "rank"), [("random", 8), ("auto", 1)])
def test_head_only_is_asked_first_then_the_default_of_every_method_or_its_smallest_size(
    tmp_path: Path, sampler: str, rank: int
) -> None:
    budget = {"n_trials": 12, "epochs": 3, "max_params": 10**9}
    study = new_study(tmp_path, budget=budget, search={"sampler": sampler})
    asked = [study.ask() for _ in range(4)]
    assert [trial.config["method"] for trial in asked if trial] == ["head_only", "lora", "arc", "lily"]
    assert asked[1] is not None
    assert asked[1].config["lora.rank"] == rank


def test_a_study_runs_exactly_its_trials_and_then_asks_for_nothing(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    in_process.run(study, SyntheticTrainable())
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 12
    assert study.ask() is None
    assert study.finished


def test_the_front_is_what_the_surface_says_for_the_sizes_that_were_tried(tmp_path: Path) -> None:
    study = new_study(tmp_path, space={"optim.lr": 10**-2.5}, budget={"n_trials": 15, "epochs": 3, "max_params": 20_000})
    in_process.run(study, SyntheticTrainable())
    sizes = sorted({trial.adapter_params for trial in study.trials})
    assert len(sizes) > 4
    assert sorted({t.adapter_params for t in study.front()}) == sizes  # at the best learning rate larger is always better
    for trial in study.front():
        assert trial.metrics["val/top1"] == pytest.approx(best(trial.adapter_params), abs=1e-12)


def test_a_trial_is_complete_at_exactly_the_budgeted_epoch(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    trial = next_trial(study)
    decisions = [study.report(trial.number, epoch, GOOD) for epoch in (1, 2, 3)]
    assert decisions == [Decision.CONTINUE, Decision.CONTINUE, Decision.STOP]
    assert study.trials[0].state is State.COMPLETE


def test_an_epoch_that_is_repeated_changes_nothing_and_one_after_a_gap_restarts_the_trial(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    study.ask()
    study.report(0, 1, GOOD)
    study.report(0, 2, GOOD)
    before = history(study)
    assert study.report(0, 1, GOOD | {"val/top1": 0.9}) is Decision.CONTINUE
    assert history(study) == before
    assert study.report(0, 4, GOOD) is Decision.STOP  # its checkpoint is ahead of the ledger
    assert [kind for kind, _, _ in history(study)[len(before) :]] == ["restarted"]


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_fails_the_trial_with_the_reason(tmp_path: Path, broken: float) -> None:
    study = new_study(tmp_path)
    study.ask()
    assert study.report(0, 1, GOOD | {"train/loss": broken}) is Decision.STOP
    assert study.trials[0].state is State.FAILED
    assert study.trials[0].reason == f"train/loss is {broken} at epoch 1"
    assert study.front() == []


def test_diverging_trials_fail_and_the_search_goes_on(tmp_path: Path) -> None:
    study = new_study(tmp_path, budget={"n_trials": 30, "epochs": 3, "max_params": 20_000})
    in_process.run(study, SyntheticTrainable(diverges_above_lr=0.004))
    states = {trial.state for trial in study.trials}
    assert states == {State.COMPLETE, State.FAILED}
    assert all((trial.state is State.FAILED) == (trial.config["optim.lr"] > 0.004) for trial in study.trials)
    assert all("nan" in str(trial.reason) for trial in study.trials if trial.state is State.FAILED)


def test_an_exception_in_the_trainable_fails_the_trial_with_its_text(tmp_path: Path) -> None:
    class Breaks(SyntheticTrainable):
        def step(self) -> dict[str, float]:
            if self._config["method"] == "arc":
                raise RuntimeError("the GPU fell off the bus")
            return super().step()

    study = new_study(tmp_path)
    in_process.run(study, Breaks())
    for trial in study.trials:
        assert (trial.state is State.FAILED) == (trial.method == "arc")
        assert trial.reason == ("RuntimeError: the GPU fell off the bus" if trial.method == "arc" else None)


def test_what_is_too_large_is_rejected_with_the_law_and_takes_no_number(tmp_path: Path) -> None:
    budget = {"n_trials": 10, "epochs": 1, "max_params": 3_000}
    study = new_study(tmp_path, budget=budget, search={"sampler": "random"})  # auto proposes nothing too large
    in_process.run(study, SyntheticTrainable())
    assert [trial.number for trial in study.trials] == list(range(10))
    assert all(trial.adapter_params <= 3_000 for trial in study.trials)
    reasons = [json.loads(detail)["reason"] for kind, _, detail in history(study) if kind == "rejected"]
    assert any("are more than budget.max_params = 3,000" in reason for reason in reasons)


def test_no_configuration_is_trained_twice_and_an_exhausted_space_is_told(tmp_path: Path) -> None:
    fixed = {"optim.lr": 1e-3, "optim.weight_decay": 0.0, "optim.batch_size": 32, "recipe.drop_path": 0.0}
    arc = {"arc.rank": [5, 10], "arc.position": "att", "arc.layers": "all", "arc.dropout": 0.0}
    study = new_study(tmp_path, methods=["arc"], space=fixed | arc, search={"sampler": "random"})
    in_process.run(study, SyntheticTrainable())
    assert sorted(str(trial.config.get("arc.rank")) for trial in study.trials) == ["10", "5", "None"]
    assert study.ended == "the space is exhausted: 1,000 configurations in a row were rejected"
    assert study.finished
    assert sum(kind == "rejected" for kind, _, _ in history(study)) >= MAX_REJECTIONS_IN_A_ROW


def test_a_configuration_that_differs_in_the_last_bit_is_known(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    trials = [next_trial(study) for _ in range(2)]
    config = {**trials[1].config, "optim.lr": math.nextafter(trials[1].config["optim.lr"], 1.0)}
    with pytest.raises(ValueError, match="the same configuration as trial 1"):
        study.state.check(config)
    study.state.check({**config, "optim.lr": trials[1].config["optim.lr"] * (1 + 1e-8)})


def test_the_rejections_of_a_study_are_bounded_over_all_of_its_drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.study.next_trial.max_rejections", lambda n_trials: n_trials)
    study = new_study(tmp_path, budget={"n_trials": 60, "epochs": 1, "max_params": 3_000}, search={"sampler": "random"})
    while study.state.n_rejected < 30:
        assert study.ask() is not None
    rejected = study.state.n_rejected
    study.close()
    study = Study.open(study.file, SyntheticSizes())
    assert study.state.n_rejected == rejected
    in_process.run(study, SyntheticTrainable())
    assert study.ended == "the space is exhausted: 60 configurations were rejected"
    assert sum(kind == "rejected" for kind, _, _ in history(study)) == 60
    assert (max_rejections(10), max_rejections(100_000)) == (100_000, 1_000_000)


def test_the_same_seed_gives_the_same_history_and_another_seed_another(tmp_path: Path) -> None:
    histories = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        study = new_study(tmp_path, study=name, search={"seed": seed})
        in_process.run(study, SyntheticTrainable(noise=0.01))
        histories.append(history(study))
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


@pytest.fixture(scope="module", params=["auto", "tpe", "nsga2", "random", "grid"])
def uninterrupted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, object], list[tuple[str, int | None, str]]]:
    """What a study of each sampler is made of, and its history."""
    options: dict[str, object] = {
        "space": {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        "search": {"sampler": request.param, "rungs": {"grace": 1, "factor": 2}},
        "budget": {"n_trials": 20, "epochs": 3, "max_params": 20_000},
    }
    study = new_study(tmp_path_factory.mktemp("whole"), **options)
    in_process.run(study, SyntheticTrainable(noise=0.05))
    assert any(trial.state is State.PRUNED for trial in study.trials)
    return options, history(study)


@settings(deadline=None, max_examples=3)
@given(st.lists(st.integers(0, 44), min_size=1, max_size=3))
@pytest.mark.slow
def test_a_study_interrupted_anywhere_ends_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory,
    uninterrupted: tuple[dict[str, object], list[tuple[str, int | None, str]]],
    stops: list[int],
) -> None:
    class Stops(SyntheticTrainable):
        """Dies at its n-th step, after the checkpoint is written and before anyone hears of it."""

        n = 0

        def step(self) -> dict[str, float]:
            metrics = super().step()
            self.n -= 1
            if self.n < 0:
                raise KeyboardInterrupt
            return metrics

    options, whole = uninterrupted
    file = study_file(tmp_path_factory.mktemp("parts"), **options)
    study = Study.create(file, SyntheticSizes())
    for stop in stops:
        trainable = Stops(noise=0.05)
        trainable.n = stop
        try:
            in_process.run(study, trainable)
        except KeyboardInterrupt:
            study.close()
            study = Study.open(file, SyntheticSizes())
    in_process.run(study, SyntheticTrainable(noise=0.05))
    one, other = ([h for h in told if h[0] not in ("resumed", "opened")] for told in (whole, history(study)))
    assert one == other


@pytest.mark.parametrize("sampler", ["auto", "random"])
def test_a_ledger_given_back_from_a_copy_of_any_moment_goes_on_and_ends_as_if_nothing_had_happened(
    tmp_path: Path, sampler: str
) -> None:
    """Its checkpoints are ahead of it: of trials that it knows, by some epochs, and of trials that it does not know."""

    class Copies(SyntheticTrainable):
        """Keeps a copy of the ledger from the moment before its n-th step ends; the driver dies some steps later."""

        def __init__(self, study: Study, n: int) -> None:
            super().__init__(noise=0.05)
            self.ledger, self.n = study.file.folder / "ledger.db", n

        def step(self) -> dict[str, float]:
            metrics = super().step()
            self.n -= 1
            if self.n == 0:
                with closing(sqlite3.connect(self.ledger)) as live, closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
                    live.backup(copy)
                    copy.execute("DELETE FROM owner")  # who has died by the time when the copy is used; here it is this process
                    copy.commit()
            if self.n < -7:
                raise KeyboardInterrupt
            return metrics

    options: dict[str, object] = {"search": {"sampler": sampler}, "budget": {"n_trials": 8, "epochs": 5, "max_params": 20_000}}
    whole = new_study(tmp_path, study="whole", **options)
    in_process.run(whole, SyntheticTrainable(noise=0.05))
    file = study_file(tmp_path, study="restored", **options)
    study = Study.create(file, SyntheticSizes())
    for n in (3, 9, 14, 1):
        with pytest.raises(KeyboardInterrupt):
            in_process.run(study, Copies(study, n))
        study.close()
        for leftover in study.file.folder.glob("ledger.db*"):
            leftover.unlink()
        shutil.copy(tmp_path / "copy.db", study.file.folder / "ledger.db")
        study = Study.open(file, SyntheticSizes())
    in_process.run(study, SyntheticTrainable(noise=0.05))
    own = ("resumed", "opened", "restarted")
    one, other = ([h for h in history(s) if h[0] not in own] for s in (whole, study))
    assert one == other
    reasons = [json.loads(detail)["reason"] for kind, _, detail in history(study) if kind == "restarted"]
    assert any("the ledger is older" in reason for reason in reasons)
    assert any("of which the ledger knows nothing" in reason for reason in reasons)


def test_in_flight_trials_go_on_under_their_number_before_anything_new_starts(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    study.ask()
    second = study.ask()
    study.report(0, 1, GOOD)
    study.close()
    again = Study.open(study.file, SyntheticSizes())
    resumed = [again.ask(), again.ask(), again.ask()]
    assert [trial.number for trial in resumed if trial] == [0, 1, 2]
    assert [trial.n_attempts for trial in resumed if trial] == [2, 2, 1]
    assert resumed[0] is not None
    assert resumed[0].epochs == 1
    assert second is not None
    assert resumed[1] is not None
    assert resumed[1].config == second.config


def test_a_study_made_from_another_file_is_refused_with_the_difference(tmp_path: Path) -> None:
    new_study(tmp_path).close()
    changed = study_file(tmp_path, budget={"n_trials": 13, "epochs": 3, "max_params": 20_000})
    with pytest.raises(StudyFileError, match=r"budget\.n_trials: 12 -> 13"):
        Study.open(changed, SyntheticSizes())


def test_a_study_that_another_driver_holds_is_refused(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    with pytest.raises(OwnedElsewhere, match="is being run by process"):
        Study.open(study.file, SyntheticSizes())


def test_the_reference_point_is_chance_level_and_the_largest_adapter_wanted(tmp_path: Path) -> None:
    assert new_study(tmp_path).reference_point == (0.1, 20_000.0)
    without_limit = new_study(tmp_path, study="t", budget={"n_trials": 1, "epochs": 1})
    assert without_limit.reference_point == (0.1, float(SyntheticSizes.backbone_params))


def test_when_all_drivers_have_spent_the_hours_no_trial_starts_and_running_ones_finish(tmp_path: Path) -> None:
    clock = Clock()
    file = study_file(tmp_path, budget={"n_trials": 50, "epochs": 1, "max_params": 20_000, "max_hours": 1.0})
    study = Study.create(file, SyntheticSizes(), now=clock)
    study.ask()
    clock.time += 1_800
    study.report(0, 1, GOOD)
    study.close()
    clock.time += 1_000_000  # nobody works on it
    study = Study.open(file, SyntheticSizes(), now=clock)
    study.ask()
    running = study.ask()
    clock.time += 1_801
    study.report(1, 1, GOOD)
    assert study.ask() is None
    assert study.ended == "budget.max_hours = 1 is spent"
    assert not study.finished
    assert running is not None
    study.report(running.number, 1, GOOD)
    assert study.finished


def test_a_front_that_stands_still_ends_the_study(tmp_path: Path) -> None:
    study = new_study(tmp_path, budget={"n_trials": 50, "epochs": 1, "max_params": 20_000, "stall_trials": 4})
    study.ask()
    study.report(0, 1, GOOD | {"val/top1": 0.99})  # head-only at 0.99: nothing larger can do better
    for _ in range(4):
        trial = next_trial(study)
        study.report(trial.number, 1, GOOD)
    assert study.ask() is None
    assert study.ended == "the front has not moved for 4 trials (budget.stall_trials)"


def test_rungs_prune_with_rung_and_reason_and_keep_the_front(tmp_path: Path) -> None:
    budget, rungs = {"n_trials": 60, "epochs": 9, "max_params": 20_000}, {"grace": 1, "factor": 3, "epsilon": 0.0}
    whole = new_study(tmp_path, study="whole", budget=budget, search={"sampler": "random"})
    pruned = new_study(tmp_path, study="rungs", budget=budget, search={"sampler": "random", "rungs": rungs})
    for study in (whole, pruned):
        in_process.run(study, SyntheticTrainable())
    stopped = [trial for trial in pruned.trials if trial.state is State.PRUNED]
    assert stopped
    assert {trial.rung for trial in stopped} <= {1, 3}
    for trial in stopped:  # on this surface curves never cross, so that what is stopped has a smaller or equal trial above it
        assert trial.epochs == trial.rung
        assert "the bar among the" in str(trial.reason)
        assert any(other.adapter_params <= trial.adapter_params and curve_end(other) > curve_end(trial) for other in pruned.trials)
    assert [trial.config for trial in pruned.front()] == [trial.config for trial in whole.front()]
    n_epochs = [sum(trial.epochs for trial in study.trials) for study in (whole, pruned)]
    assert n_epochs[1] < 0.75 * n_epochs[0]


def curve_end(trial: Trial) -> float:
    """What the trial would reach at the full budget: the surface's value for its configuration."""
    return best(trial.adapter_params) - 0.02 * (math.log10(float(str(trial.config["optim.lr"]))) + 2.5) ** 2


def test_an_extended_study_goes_on_as_if_it_had_had_the_larger_budget_from_the_start(tmp_path: Path) -> None:
    budget = {"n_trials": 20, "epochs": 3, "max_params": 20_000}
    whole = new_study(tmp_path, study="whole", budget=budget)
    in_process.run(whole, SyntheticTrainable())
    file = study_file(tmp_path, study="parts", budget=budget | {"n_trials": 12})
    study = Study.create(file, SyntheticSizes())
    in_process.run(study, SyntheticTrainable())
    assert study.finished
    study.extend(Extension(more_trials=5))
    assert not study.finished
    study.close()
    study = Study.open(file, SyntheticSizes())  # the file it was made from still opens it
    assert study.file.budget.n_trials == 17
    in_process.run(study, SyntheticTrainable())
    study.extend(Extension(more_trials=3))
    in_process.run(study, SyntheticTrainable())
    one, other = ([h for h in history(s) if h[0] not in ("opened", "extended")] for s in (whole, study))
    assert one == other


def test_an_extension_opens_what_patience_or_hours_had_ended(tmp_path: Path) -> None:
    study = new_study(
        tmp_path, budget={"n_trials": 50, "epochs": 1, "max_params": 20_000, "stall_trials": 4}, search={"sampler": "random"}
    )
    in_process.run(study, SyntheticTrainable())
    n_before = len(study.trials)
    assert study.ended is not None
    study.extend(Extension())
    assert study.ended is None
    in_process.run(study, SyntheticTrainable())
    assert len(study.trials) >= n_before + 4


@pytest.mark.parametrize("cut", [{"more_trials": -1}, {"max_hours": 0.0}])
def test_a_budget_is_never_cut(tmp_path: Path, cut: dict[str, float]) -> None:
    study = new_study(tmp_path)
    with pytest.raises(ValueError, match="a budget can only grow"):
        study.extend(Extension(**cut))  # type: ignore[arg-type]
    assert study.row.budget["n_trials"] == 12


def test_a_trial_whose_checkpoint_is_gone_is_trained_again_and_its_events_say_so(tmp_path: Path) -> None:
    whole = new_study(tmp_path / "whole")
    in_process.run(whole, SyntheticTrainable())
    study = new_study(tmp_path)
    next_trial(study)
    study.report(0, 1, whole_reports(whole)[1])
    study.close()
    with closing(Study.open(study.file, SyntheticSizes())) as again:
        in_process.run(again, SyntheticTrainable())
        assert [(kind, number) for kind, number, _ in history(again)][:6] == [
            ("opened", None),
            ("started", 0),
            ("reported", 0),
            ("opened", None),
            ("resumed", 0),
            ("restarted", 0),
        ]
        assert [t.metrics for t in again.trials] == [t.metrics for t in whole.trials]


def whole_reports(study: Study) -> dict[int, dict[str, float]]:
    """Epoch to metrics of trial 0."""
    return {report.epoch: dict(report.metrics) for report in SqlLedger.open(study.folder / "ledger.db").reports(trial=0)}
