"""What a study's trials say about true accuracies: laws of the choice, and intervals that hold as often as they say."""

from __future__ import annotations

import random

import numpy as np
import pytest
from numpy.typing import NDArray

import spaces
from search.front import front
from search.results.belief import LEVEL, N_LEAST, TIE, Belief, believe
from search.results.sure_answer import SureAnswer
from search.samplers.random_sampler import draw_uniformly
from search.trial import State, Trial
from spaces import JointSpace
from trainables.simulated.surfaces import Surface

SPACE = spaces.joint(["lora", "arc", "convpass", "fact"])
N_IMAGES = 200


def trial(number: int, size: int, top1: float) -> Trial:
    config = {**SPACE.default("lora"), "method": "lora"}
    return Trial(number, State.COMPLETE, config, 0, size, 650, 30, {"val/top1": top1})


def belief_of(sizes: list[int], draws: NDArray[np.float64]) -> Belief:
    return Belief(tuple(trial(n, size, 0.5) for n, size in enumerate(sizes)), draws)


def noisy(instance: int, n: int, space: JointSpace = SPACE) -> tuple[list[Trial], dict[int, float]]:
    """Trials of a synthetic study whose accuracies have the noise of a seed and of 200 images; and the true accuracies."""
    surface, by, rng = Surface("valley", instance), random.Random(instance), np.random.default_rng(instance)
    trials, true = [], {}
    while len(trials) < n:
        config = draw_uniformly(space, by)
        if (size := surface.count(config)[0]) <= 100_000:
            true[len(trials)] = surface.final(config)
            one = float(np.clip(true[len(trials)] + rng.normal(0, 0.01), 0, 1))
            found = {"val/top1": rng.binomial(N_IMAGES, one) / N_IMAGES}
            trials.append(Trial(len(trials), State.COMPLETE, config, 0, size, 650, 30, found))
    return trials, true


def test_nine_intervals_of_ten_hold_the_truth_and_the_best_is_not_overrated() -> None:
    inside, flattered, corrected = [], [], []
    for instance in range(20):
        trials, true = noisy(instance, 30)
        belief = believe(SPACE, trials, N_IMAGES)
        for i, one in enumerate(belief.trials):
            low, high = belief.interval(i)
            inside.append(low <= true[one.number] <= high)
        best = max(trials, key=lambda t: t.metrics["val/top1"])
        flattered.append(best.metrics["val/top1"] - true[best.number])
        index = int(belief.mean.argmax())
        corrected.append(belief.mean[index] - true[belief.trials[index].number])
    assert 0.85 < np.mean(inside) < 0.95
    assert np.mean(flattered) > 0.015
    assert abs(np.mean(corrected)) < 0.5 * np.mean(flattered)


def test_a_second_seed_of_a_configuration_narrows_its_interval_and_is_shared() -> None:
    trials, _ = noisy(3, 20)
    again = [Trial(20 + n, State.COMPLETE, trials[0].config, 1 + n, trials[0].size, 650, 30, trials[0].metrics) for n in range(4)]  # type: ignore[arg-type]
    once, often = (believe(SPACE, some, N_IMAGES) for some in (trials, [*trials, *again]))
    widths = []
    for belief in (once, often):
        at = next(i for i, t in enumerate(belief.trials) if t.number == 0)
        low, high = belief.interval(at)
        widths.append(high - low)
    assert widths[1] < 0.8 * widths[0]


def test_the_chance_to_be_on_the_front_is_that_no_trial_of_its_size_or_smaller_is_better() -> None:
    rng = np.random.default_rng(0)
    sizes = [0, 10, 10, 30, 50]
    belief = belief_of(sizes, rng.uniform(0.4, 0.6, (500, 5)))
    wanted = [
        np.mean([all(row[j] - row[i] < TIE for j in range(5) if sizes[j] <= sizes[i]) for row in belief.draws]) for i in range(5)
    ]
    assert belief.p_front() == pytest.approx(wanted)


def test_the_choice_is_the_smallest_that_is_good_enough_with_the_level() -> None:
    rng = np.random.default_rng(1)
    belief = belief_of([10, 20, 30, 40], np.array([0.50, 0.55, 0.558, 0.56]) + rng.normal(0, 0.003, (4000, 4)))
    assert (choice := belief.choose(within=0.02)) is not None
    assert (choice.index, choice.holds, choice.rival) == (1, True, 0)
    assert choice.probability == np.mean(belief.draws[:, 1] >= belief.draws.max(1) - 0.02) >= LEVEL
    assert (wide := belief.choose(within=0.2)) is not None
    assert (wide.index, wide.rival) == (0, None)
    assert (narrow := belief.choose(within=0.0)) is not None
    assert (narrow.index, narrow.holds) == (3, False)  # not settled: the one that is expected to be best
    assert (small := belief.choose(within=0.0, max_size=20)) is not None
    assert (small.index, small.holds) == (1, True)
    assert belief.choose(within=0.0, max_size=5) is None
    assert (belief.gain(0, 0.01), belief.gain(1, 0.01), belief.gain(0, 0.059)) == (1, None, 3)


@pytest.mark.parametrize("n", [0, 1, N_LEAST - 1, N_LEAST])
def test_few_trials_have_an_answer_too(n: int) -> None:
    trials, _ = noisy(0, 10)
    answer = SureAnswer.of(believe(SPACE, trials[:n], N_IMAGES))
    assert str(answer)
    assert (answer.trial is None) is (n == 0)
    assert len(answer.as_json()["trials"]) == n


def test_the_answer_names_the_trial_what_it_will_score_and_what_would_change_it() -> None:
    rng = np.random.default_rng(1)
    belief = belief_of([10, 20, 3000], np.array([0.53, 0.549, 0.556]) + rng.normal(0, 0.006, (4000, 3)))
    text = str(SureAnswer.of(belief, within=0.02))
    assert text.startswith("LoRA r=8, trial 1 (20 parameters) loses at most 2 points against the best with probability 0.9")
    assert "Expect 54.89 % on new images (53.9" in text
    assert "50.00 % were measured" in text
    assert "trial 0 (10 parameters) would do with probability 0." in text
    assert str(SureAnswer.of(belief, within=0.0)).startswith("Not settled: LoRA r=8, trial 2 (3,000 parameters) is expected to be")


def test_of_many_trials_the_newest_and_the_whole_front_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.results.belief.N_KNOWN", 5)
    trials, _ = noisy(1, 20)
    used = {t.number for t in believe(SPACE, trials, N_IMAGES).trials}
    assert used == {t.number for t in trials[-5:]} | {t.number for t in front(trials)}
    assert used - {t.number for t in trials[-5:]}
