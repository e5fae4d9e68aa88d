"""The sentence that a colleague would write: the smallest member within one standard error of the best, and both ratios."""

from __future__ import annotations

import math

import pytest

from search.metrics import METRICS, TOP1
from search.results.recommendation import answer, recommended
from search.trial import State, Trial


def trial(number: int, size: int, top1: float, *, method: str = "lora", **knobs: object) -> Trial:
    config = {"method": method} | {f"{method}.{key}": value for key, value in knobs.items()}
    return Trial(number, State.COMPLETE, config, 0, size, 650, metrics={"val/top1": top1})


def test_the_standard_error_of_an_accuracy_is_the_binomial_one() -> None:
    assert METRICS[TOP1].standard_error(0.9, 100) == pytest.approx(0.03)
    assert METRICS[TOP1].standard_error(0.9, 100) == pytest.approx(
        math.sqrt(sum((x - 0.9) ** 2 for x in [1] * 90 + [0] * 10) / 100 / 100)
    )


def test_the_smallest_member_within_one_standard_error_of_the_best_is_recommended() -> None:
    trials = [trial(0, 0, 0.80), trial(1, 400, 0.871), trial(2, 4_000, 0.885), trial(3, 10_000, 0.9)]
    assert recommended(trials, 100) == trials[1]  # 0.9 - 0.03 = 0.87
    assert recommended(trials, 400) == trials[2]  # 0.9 - 0.015 = 0.885
    assert recommended(trials, None) == trials[3]
    assert recommended([], 100) is None


def test_the_sentence_tells_both_ratios_and_the_place_of_the_adapter() -> None:
    trials = [trial(0, 0, 0.5, method="head_only"), trial(1, 400, 0.873, rank=2, layers="last-6"), trial(2, 10_000, 0.9, rank=32)]
    assert answer(trials, 100) == (
        "LoRA r=2 on the last 6 blocks keeps 97 % of the best accuracy with 4 % of its parameters "
        "(87.30 % with 400 parameters, against 90.00 % ± 3.00 with 10,000: LoRA r=32)."
    )


def test_a_ratio_is_never_rounded_to_all_or_to_nothing() -> None:
    assert "keeps 99.8 % of the best accuracy with 0.4 % of" in answer([trial(0, 40, 0.8985), trial(1, 10_000, 0.9)], 100)
    assert "keeps 99.9 % of the best accuracy with less than 0.1 % of" in answer([trial(0, 1, 0.89999), trial(1, 10_000, 0.9)], 100)


@pytest.mark.parametrize(
    ("trials", "sentence"),
    [
        ([], "No trial is complete yet, so there is no answer yet."),
        (
            [trial(0, 0, 0.5), trial(1, 400, 0.9, rank=2)],
            "LoRA r=2 is the best, 90.00 % ± 3.00 with 400 parameters; nothing smaller comes within one standard error.",
        ),
        (
            [trial(0, 0, 0.9, method="head_only")],
            "Head only is the best, 90.00 % ± 3.00 with 0 parameters, and needs no adapter at all.",
        ),
    ],
)
def test_where_nothing_smaller_will_do_the_best_is_named(trials: list[Trial], sentence: str) -> None:
    assert answer(trials, 100) == sentence
