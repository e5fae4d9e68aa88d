"""The predicted seconds of epochs: learnt from reports, shared between methods, and known once they are measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

import spaces
from search.pareto import Front
from search.samplers.base import NewConfig, Promote, Result
from search.samplers.candidates import CandidateGenerator
from search.samplers.encoding import Coding
from search.samplers.epoch_seconds import CHEAPEST, EpochSeconds
from spaces import Config

from .drawing import draw, make_sampler

SPACE = spaces.joint(["lora", "adapter"])
POINTS = CandidateGenerator(Coding(SPACE), size=lambda config: 1000, max_size=10_000, axis=Front((0.1, 10_000.0)).axis)


def features(method: str, layers: str) -> np.ndarray:
    return POINTS.point(SPACE.default(method) | {f"{method}.layers": layers}).features


def taught(times: dict[str, float]) -> EpochSeconds:
    """Twenty trials of LoRA for each choice of layers, of so many seconds."""
    seconds = EpochSeconds(POINTS.coding)
    for n, (layers, value) in enumerate(times.items()):
        for k in range(20):
            for epoch in (1, 2, 3):
                seconds.report(20 * n + k, features("lora", layers), epoch, 50.0 if epoch == 1 else value)
    return seconds


def test_before_any_report_every_epoch_takes_as_long_and_a_report_of_nothing_teaches_nothing() -> None:
    seconds = EpochSeconds(POINTS.coding)
    seconds.report(0, features("lora", "all"), 1, 0.0)
    assert list(seconds.of(np.stack([features("lora", "all"), features("adapter", "last-2")]))) == [1.0, 1.0]


def test_what_one_method_tells_of_a_knob_is_expected_of_another_with_a_knob_of_that_name() -> None:
    seconds = taught({"all": 4.0, "last-2": 1.0})
    lora, adapter = (seconds.of(np.stack([features(m, "all"), features(m, "last-2")])) for m in ("lora", "adapter"))
    assert 2.0 < lora[0] / lora[1] <= 4.0
    assert adapter[0] / adapter[1] == pytest.approx(lora[0] / lora[1])


def test_a_trial_that_has_reported_is_known_without_its_first_epoch_and_nothing_is_cheaper_than_a_tenth_of_the_mean() -> None:
    seconds = taught({"all": 4.0, "last-2": 1.0})
    seconds.report(99, features("lora", "all"), 1, 7.0)
    rows = np.stack([features("lora", "all")] * 3)
    known = seconds.of_trials(np.array([0, 99, 1000]), rows)
    assert list(known[:2]) == pytest.approx([4.0, 7.0])
    assert known[2] == seconds.of(rows)[0]
    for epoch in (1, 2):
        seconds.report(100, features("adapter", "all"), epoch, 1e-9)
    logs = [math.log(4.0)] * 20 + [math.log(1.0)] * 20 + [math.log(7.0), math.log(1e-9)]
    assert seconds.of_trials(np.array([100]), rows[:1])[0] == pytest.approx(CHEAPEST * math.exp(sum(logs) / len(logs)))


def size(config: Config) -> int:
    return 1000


@pytest.mark.slow
def test_of_equal_accuracy_the_faster_method_gets_the_trials_only_if_the_budget_is_in_hours() -> None:
    """Two methods of equal size and accuracy: epochs of the second take ten times as long."""

    def share(*, by_seconds: bool) -> int:
        space, front = spaces.joint(["adapter", "adaptformer"]), Front((0.1, 100_000.0))
        sampler = make_sampler(space, "auto", size=size, max_size=100_000, front=front, n_epochs=2, by_seconds=by_seconds)
        chosen = []
        for number in range(40):
            ticket, config = draw(sampler)
            chosen.append(config["method"])
            top1 = 0.8 - 0.1 * abs(math.log10(float(config["optim.lr"]) / 3e-3))
            for epoch in (1, 2):
                sampler.report(ticket, epoch, top1, None, 10.0 if config["method"] == "adaptformer" else 1.0)
            front.add(top1, 1000, number)
            sampler.tell(ticket, Result.COMPLETE, top1=top1, size=1000)
        return chosen[6:].count("adaptformer")  # after the fair start

    assert share(by_seconds=True) <= 4
    assert share(by_seconds=False) > 8


def test_of_two_stopped_trials_that_promise_the_same_the_faster_one_resumes() -> None:
    space, front = spaces.joint(["adapter"]), Front((0.1, 100_000.0))
    context = {"size": size, "max_size": 100_000, "front": front, "n_epochs": 9, "pool": [], "by_seconds": True}
    sampler = make_sampler(space, "auto", **context)
    default = space.default("adapter")
    for n in range(4):
        ticket = sampler.add(default | {"optim.lr": 1e-3 * (1 + n / 100)}, drawn=False)
        assert ticket is not None
        for epoch in (1, 2):
            sampler.report(ticket, epoch, 0.6, None, 1.0 if n == 2 else 3.0)
        sampler.tell(ticket, Result.STOPPED)
    answer = sampler.rule.ask(0)
    assert not isinstance(answer, NewConfig)
    assert answer == Promote(2)
