"""The size of a study's space and the cost of the study, estimated before it starts."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.backends import simulated
from search.backends.simulated import Replay, VirtualClock
from search.config.study_file import ANCHOR, StudyFile
from search.costs import Costs, Sizes
from search.samplers.random_sampler import draw_uniformly
from search.samplers.size_cache import CachedSize
from search.workflows.epoch_seconds import Predicted, Progress
from spaces import Config, JointSpace

if TYPE_CHECKING:
    from trainables.costs.speed import Speed

N_DRAWS, N_DRAWS_OF_OPERATIONS = 400, 60  # for each method; counting operations takes 30 times as long as counting parameters
FEWEST_DRAWS = 8  # for each method, on a machine that counts too slowly for all
N_PROBED, N_PREDICTED = 2, 4  # configurations of each method in addition to its default: to measure memory, to predict epochs
MAX_SIMULATED, FEWEST_SIMULATED = 200, 50  # trials; the result for a longer study is scaled
FAMILIES, N_INSTANCES = ("valley", "crossing"), 3  # of surfaces, and surfaces of each
_LEAST_BELOW, _LEAST_ABOVE = 0.10, 0.30  # least width of a range: machines are noisy, and parallel trials slow each other (19 %)


@dataclass(frozen=True)
class Holding:
    """The configurations of one method in a space.

    Attributes:
        method: Name of the method.
        n_configs: Number of configurations; None if a knob is continuous.
        sizes: Adapter parameters of the valid ones among uniform draws, sorted.
        feasible: Fraction of the draws that are valid and keep every limit that is known before training.
        keeps: Fraction of the draws that are valid and keep one of these limits, by limit.
    """

    method: str
    n_configs: int | None
    sizes: Sequence[int]
    feasible: float
    keeps: Mapping[str, float]


@dataclass(frozen=True)
class Range:
    """An estimate, and the range in which the true value is expected."""

    low: float
    guess: float
    high: float


@dataclass(frozen=True)
class Cost:
    """The estimated cost of a study.

    Attributes:
        trials: Number of trials; if only hours end the study, as many as fit in them.
        epochs: Epochs trained by all trials together.
        slot_hours: Hours of all slots together.
        hours: Hours of wall-clock time.
        memory_bytes: Largest peak memory of a trial.
    """

    trials: Range
    epochs: Range
    slot_hours: Range
    hours: Range
    memory_bytes: float


def holdings(
    file: StudyFile, sizes: Sizes, max_params: int, *, seconds: float = math.inf, on_done: Progress = lambda what, done, of: None
) -> list[Holding]:
    """Return the configurations in the space, method by method; every call makes the same draws.

    Args:
        file: Study file.
        sizes: Sizes of its configurations.
        max_params: Largest allowed number of adapter parameters.
        seconds: Time after which a method has no more than `FEWEST_DRAWS` draws.
        on_done: Callback for progress.
    """
    space, costs = file.joint_space(), file.costs(sizes, max_params=max_params)
    known = CachedSize(costs.known, space, operations=costs.counts_operations)
    found = []
    for done, method in enumerate(space.methods):
        on_done("counting sizes of methods", done, len(space.methods))
        found.append(_holding(space, method, known, costs, seconds / len(space.methods)))
    return found


def _holding(space: JointSpace, method: str, known: CachedSize[dict[str, float]], costs: Costs, seconds: float) -> Holding:
    rng, found, until = random.Random(0), [], time.perf_counter() + seconds  # noqa: S311 - not cryptography
    n_draws = 0
    while n_draws < (N_DRAWS_OF_OPERATIONS if costs.counts_operations else N_DRAWS):
        if n_draws >= FEWEST_DRAWS and time.perf_counter() > until:
            break
        n_draws += 1
        try:
            found.append(known(draw_uniformly(space.only(method), rng)))
        except ValueError:  # invalid: a rank above a width
            continue
    broken = [costs.beyond(one) for one in found]
    keeps = {key: sum(key not in keys for keys in broken) / n_draws for key in costs.checked}
    sizes = sorted(int(one["adapter_params"]) for one in found)
    return Holding(method, _count(space, method), sizes, sum(not keys for keys in broken) / n_draws, keeps)


def _count(space: JointSpace, method: str) -> int | None:
    n = 1
    for values in space.distributions(method).values():
        if isinstance(values, CategoricalDistribution):
            n *= len(values.choices)
        elif isinstance(values, IntDistribution) and not values.log:
            n *= (values.high - values.low) // values.step + 1
        elif isinstance(values, FloatDistribution) and values.step is not None:
            n *= round((values.high - values.low) / values.step) + 1
        elif values.low != values.high:  # type: ignore[attr-defined]
            return None
    return n


def to_probe(file: StudyFile, sizes: Sizes, max_params: int, n_drawn: int = N_PROBED, *, seconds: float = math.inf) -> list[Config]:
    """Return head-only, and of each method its default and some draws, as far as they are valid and keep the limits.

    Args:
        file: Study file.
        sizes: Sizes of its configurations.
        max_params: Largest allowed number of adapter parameters.
        n_drawn: Number of draws for each method.
        seconds: Time after which a method that has one configuration gets no further one.
    """
    until, share = time.perf_counter(), seconds / (1 + len(file.methods))
    everything = file.model_copy(update={"methods": (ANCHOR, *file.methods)}).joint_space()
    costs = file.costs(sizes, max_params=max_params)
    rng, found = random.Random(0), []  # noqa: S311 - not cryptography
    for method in everything.methods:
        draws = (draw_uniformly(everything.only(method), rng) for _ in range(20 * n_drawn))
        kept, until = 0, max(until, time.perf_counter()) + share
        for config in itertools.chain([everything.default(method)], draws):
            if kept and time.perf_counter() > until:
                break
            try:
                costs.check(config)
            except ValueError:
                continue
            if config not in found:
                found.append(config)
                kept += 1
            if kept > (0 if method == ANCHOR else n_drawn):
                break
    return found


def epochs(file: StudyFile, *, seconds: float = math.inf, on_done: Progress = lambda what, done, of: None) -> Range:
    """Estimate the epochs that the study would train: all of them without rungs, the simulated share of them with rungs.

    If only hours end the study, they are the epochs of `MAX_SIMULATED` trials, which `cost` scales.

    Args:
        file: Study file.
        seconds: Time for the searches. The first of each family of surfaces is simulated in any case, if need be in part: until its
            half of the time is over, and `FEWEST_SIMULATED` trials have started.
        on_done: Callback for progress.
    """
    n_trials = file.budget.n_trials or MAX_SIMULATED
    whole = n_trials * file.budget.epochs
    if file.search.rungs is None:
        return Range(whole, whole, whole)
    changes: dict[str, Any] = {
        "n_trials": min(n_trials, MAX_SIMULATED),
        "max_hours": None,
        "until": None,
        "stall_trials": None,
        "limits": {},
    }
    budget = file.budget.model_copy(update=changes)
    usual = StudyFile.model_fields["objectives"].default  # on the surfaces, costs other than parameters are not realistic
    shorter = file.model_copy(update={"budget": budget, "objectives": usual})
    until, shares = time.perf_counter() + seconds, list[float]()
    for instance in range(N_INSTANCES):
        if instance and time.perf_counter() > until:
            break
        for family in FAMILIES:
            on_done("simulating searches", len(shares), N_INSTANCES * len(FAMILIES))
            shares.append(_share(shorter, family, instance, time.perf_counter() + seconds / len(FAMILIES)))
    return Range(whole * min(shares) * 0.8, whole * statistics.median(shares), min(whole * max(shares) * 1.2, whole))


class _TimeIsOver(Exception):
    """The time of a simulation is over."""


def _share(file: StudyFile, family: str, instance: int, until: float) -> float:
    """Return the share of the epochs of started trials that one simulated search trains, of its first part if it takes too long."""
    from trainables.simulated.surfaces import Surface, SurfaceTrainable

    surface, clock = Surface(family, instance), VirtualClock()
    replay = Replay(surface, lambda: SurfaceTrainable(surface), None)
    study = simulated.create(file, replay.sizes, clock)

    def look() -> None:
        if time.perf_counter() > until and len(study.state.trials) >= FEWEST_SIMULATED:
            raise _TimeIsOver

    with suppress(_TimeIsOver):
        simulated.run(study, replay.make, clock, n_workers=1, on_event=look)
    return sum(trial.epochs for trial in study.trials) / (len(study.trials) * file.budget.epochs)


def peak_bytes(computed: float, sizes: Sizes, speed: Speed) -> float:
    """Predict the peak memory of a trial: the computed bytes of training, times the ratio of measured to computed for LoRA."""
    of_lora = sizes.training_bytes({"method": "lora"}, speed.n_images)
    return speed.base_bytes + computed * (speed.peak_bytes - speed.base_bytes) / of_lora


def cost(
    file: StudyFile,
    predicted: Sequence[Predicted],
    trained: Range,
    *,
    n_slots: int,
    start_seconds: float,
    setup_seconds: float,
    memory_bytes: float,
) -> Cost:
    """Combine the number of epochs with the cost of one.

    Args:
        file: Study file.
        predicted: Predictions for the configurations from `to_probe`.
        trained: Number of epochs from `epochs`.
        n_slots: Number of trials at once.
        start_seconds: Seconds before the first trial trains.
        setup_seconds: Seconds between a configuration and its first step.
        memory_bytes: Peak memory of a trial.
    """
    methods = seconds_by_method(predicted)
    means = [statistics.mean(seconds) for method, seconds in methods.items() if method != ANCHOR or len(methods) == 1]
    middle = statistics.mean(means)
    spread = float(np.std(means)) / middle
    budget = file.budget
    n_trials = budget.n_trials or MAX_SIMULATED
    setups = n_trials * setup_seconds
    low, guess, high = (
        (n * seconds + setups) / 3600
        for n, seconds in (
            (trained.low, middle * (1 - max(spread, _LEAST_BELOW))),
            (trained.guess, middle),
            (trained.high, middle * (1 + max(spread, _LEAST_ABOVE))),
        )
    )
    if budget.n_trials is None and budget.max_hours is not None:
        slot_hours = budget.max_hours * n_slots
        fits = Range(slot_hours / high, slot_hours / guess, slot_hours / low)
        epochs = Range(trained.high * fits.low, trained.guess * fits.guess, trained.low * fits.high)
        trials = Range(n_trials * fits.low, n_trials * fits.guess, n_trials * fits.high)
        hours = budget.max_hours + start_seconds / 3600
        return Cost(trials, epochs, Range(*3 * [slot_hours]), Range(*3 * [hours]), memory_bytes)
    wall = [hours / n_slots + start_seconds / 3600 for hours in (low, guess, high)]
    return Cost(Range(*3 * [n_trials]), trained, Range(low, guess, high), Range(*wall), memory_bytes)


def seconds_by_method(predicted: Sequence[Predicted]) -> dict[str, list[float]]:
    """Return the predicted seconds of an epoch of each method's configurations."""
    found: dict[str, list[float]] = {}
    for one in predicted:
        found.setdefault(str(one.config["method"]), []).append(one.epoch_seconds)
    return found
