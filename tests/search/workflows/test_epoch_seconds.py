"""The predicted seconds of epochs, and what trials that reported theirs change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.storage.facts import PrefixFact
from search.workflows.epoch_seconds import MOST_TRIALS, Reported, corrections, predict, reports
from trainables.costs.speed import Speed
from trainables.costs.work import Work

from .. import studies

PREDICTED = {"lora": 1.0, "arc": 2.0, "lily": 4.0}


def step_seconds(config: Any) -> float:
    if config["method"] not in PREDICTED:
        raise ValueError("not a method any more")
    return PREDICTED[config["method"]]


def told(study: str, *, is_own: bool, **seconds: float) -> list[Reported]:
    return [Reported(study, is_own, {"method": method}, value) for method, value in seconds.items()]


def test_without_trials_nothing_is_corrected() -> None:
    assert corrections([], step_seconds)["lora"] == 1.0


def test_trials_of_the_study_count_as_they_are_and_lend_their_level_to_methods_without_trials() -> None:
    found = corrections(told("s", is_own=True, lora=1.5, arc=3.0), step_seconds)
    assert (found["lora"], found["arc"], found["lily"]) == (1.5, 1.5, 1.5)


def test_of_another_study_only_the_differences_between_methods_count() -> None:
    found = corrections(told("other", is_own=False, lora=10.0, arc=20.0, lily=80.0, gone=1.0), step_seconds)  # 10, 10 and 20 times
    assert (found["lora"], found["arc"], found["lily"]) == (1.0, 1.0, 2.0)


def test_the_study_itself_comes_first_and_the_others_fill_what_it_lacks() -> None:
    others = told("a", is_own=False, lora=5.0, arc=10.0, lily=40.0) + told("b", is_own=False, lora=1.0, arc=2.0, lily=8.0)
    found = corrections(told("s", is_own=True, lora=3.0) + others, step_seconds)
    assert (found["lora"], found["arc"], found["lily"]) == (3.0, 3.0, 6.0)


def test_a_prediction_is_work_times_speed_times_the_correction_and_the_first_of_each_method_is_always_made() -> None:
    work: Any = SimpleNamespace(step=lambda config: Work(calls=1), epoch=lambda config: Work(calls=config["n"]))
    configs = [{"method": method, "n": n} for method in ("lora", "arc") for n in (10, 20)]
    speed = Speed(0.0, 0.0, 0.1, 0.0, 1, 0.0, 0.0, 1.0)
    lines: list[tuple[str, int, int]] = []
    own = told("s", is_own=True, arc=0.3)
    found = predict(configs, work, speed, own, seconds=60.0, on_done=lambda *line: lines.append(line))
    assert [(one.config["method"], round(one.epoch_seconds, 6)) for one in found] == [
        ("lora", 3.0), ("arc", 3.0), ("lora", 6.0), ("arc", 6.0)
    ]  # fmt: skip
    assert lines[-1] == ("predicting epochs", 4, 4)
    few = predict(configs, work, speed, [], seconds=-1.0, on_done=lambda *line: None)
    assert [one.config for one in few] == [{"method": "lora", "n": 10}, {"method": "arc", "n": 10}]


def test_the_trials_of_a_storage_are_read_and_those_that_computed_nothing_are_left_out(tmp_path: Path) -> None:
    """A synthetic study reports costs too, and no kernel ran for them; a folder that cannot be read is left out."""
    study = studies.new_study(tmp_path)
    trial = studies.next_trial(study)
    metrics = {"val/top1": 0.5, "val/loss": 1.0, "train/loss": 1.0, "cost/step_seconds": 0.25}
    for epoch in (1, 2):
        study.report(trial.number, epoch, metrics)
    study.close()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "ledger.db").write_bytes(b"no database")
    assert reports(studies.study_file(tmp_path), PrefixFact()) == []


@pytest.mark.parametrize("img_size", [None, 16])
def test_a_study_on_the_same_backbone_tells_its_newest_trials(tmp_path: Path, img_size: int | None) -> None:
    study = studies.new_study(tmp_path, data={"kind": "digits"})
    for seconds in (0.1, 0.2, 0.3, 0.4, 0.5):
        trial = studies.next_trial(study)
        for epoch in (1, 2):
            metrics = {"val/top1": 0.5, "val/loss": 1.0, "train/loss": 1.0, "cost/step_seconds": seconds}
            study.report(trial.number, epoch, metrics)
    configs = {str(trial.config["method"]) for trial in study.trials}
    study.close()
    backbone = {"name": "vit_glyphs", "img_size": img_size}
    kept = study.row.facts.prefix
    assert kept is not None
    another = studies.study_file(tmp_path, study="another", data={"kind": "digits"}, backbone=backbone)
    found = reports(another, kept)
    if img_size is not None:
        assert found == []
        return
    assert {str(one.config["method"]) for one in found} == configs
    assert not any(one.is_own for one in found)
    assert max(one.step_seconds for one in found) == 0.5
    assert all(sum(one.config["method"] == method for one in found) <= MOST_TRIALS for method in configs)
    assert reports(another, PrefixFact(cuts=(*kept.cuts, 99))) == []  # its epochs are not comparable
    own = reports(studies.study_file(tmp_path, data={"kind": "digits"}), kept)
    assert own
    assert all(one.is_own for one in own)
