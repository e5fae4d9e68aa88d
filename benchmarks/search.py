"""How soon does a search reach the front? `python benchmarks/search.py run`, then `report` writes docs/search.md and its pictures.

Every contender drives the same `Study` on one imaginary worker: head-only and the papers' defaults first, then what its sampler
chooses. Four problems: the recorded table (results/digits-table.parquet: contenders pick rows without replacement, the reference
is the table's own front), two synthetic families with known fronts, where each seed is another member of the family, and one of
them with accuracy weighed against latency, which a trial tells only when it runs. Measured
in epochs, what a search pays; a seed's runs are paired over the contenders. Hypervolume is normalised: (HV - HV of head-only) /
(HV of the reference front - HV of head-only).

The problem `seconds` is the recorded table again, with four workers at once and the recorded seconds as time. There `auto` has a
budget in trials, as everywhere, and `auto, hours` has one in hours. A rule for hours was chosen on seeds 100 to 119.

`auto 312f83d` is `auto` as it was on that commit: a study that began then continues so. Parts are added to it, alone and together.

A run is kept as one line of results/search.jsonl; a second call goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from optuna.distributions import CategoricalDistribution
from search_report import AFTER, MAX_EPOCHS, lines, report

sys.path.pop(0)  # this file's own folder, where `search` would be this file

import spaces
from search import pareto
from search.backends.simulated import VirtualClock, create
from search.backends.simulated import run as simulate
from search.config.loading import check
from search.config.study_file import ANCHOR, StudyFile
from search.samplers.auto import Auto
from search.samplers.base import Part
from search.samplers.candidates import CandidateGenerator, Candidates
from search.samplers.observations import Observations
from search.storage.in_memory import InMemoryLedger
from search.study.checks import facts_of
from search.study.rungs import Rungs, Verdict
from search.study.study import Study
from search.trial import Decision, State
from spaces import Config
from trainables.simulated.recorded import RecordedTrainable, Table
from trainables.simulated.surfaces import FAMILIES, Surface, SurfaceTrainable

RESULTS = Path(__file__).parent / "results"
UNRECORDED = ("ssf", "difffit", "rep_adapter", "adapter_plus", "convpass", "vpt")  # younger than the table
METHODS = tuple(method for method in spaces.SPACES if method not in ("head_only", "layer_norm", "bitfit", "full", *UNRECORDED))
EPOCHS, MAX_PARAMS, MAX_MS = 30, 100_000, 4.0
RUNGS = {"grace": 3, "factor": 2}
HALVING = {"grace": 3, "factor": 3}
N_VALIDATION = 800  # images of the recorded digits
ENOUGH = 0.992  # of the reference: the run ends
SEEDS = range(20)


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
        sizes: What is known before training.
        make: Makes a trainable.
        pool: The only configurations, or None.
        front: The reference: (top1, size) of its points.
        against: What accuracy is weighed against.
        limit: The largest of that that is wanted.
    """

    sizes: Any
    make: Callable[[], Any]
    pool: list[Config] | None
    front: list[tuple[float, float]]
    against: str = "adapter_params"
    limit: float = MAX_PARAMS


def problem(name: str, seed: int) -> Problem:
    """A problem by name; each seed has another member of a family, and the one table."""
    if name == "table":
        table = Table(RESULTS / "digits-table.parquet")
        rows = [row for row in table.rows if row.config["method"] in METHODS]
        anchor = next(row for row in table.rows if row.config == spaces.joint([ANCHOR]).default(ANCHOR))
        front = [(row.curves["val/top1"][-1], float(row.params[0])) for row in (*rows, anchor) if row.problem is None]
        return Problem(table, lambda: RecordedTrainable(table), [row.config for row in rows], front)
    surface = Surface("valley" if name == "latency" else name, seed)
    against, limit = ("cost/latency_ms", MAX_MS) if name == "latency" else ("adapter_params", MAX_PARAMS)
    front = surface.best({"method": (ANCHOR,)}, against)
    for method in METHODS:
        knobs = spaces.joint([method]).knobs(method)
        values: dict[str, Sequence[Any] | None] = {
            k.key: k.distribution.choices if isinstance(k.distribution, CategoricalDistribution) else None for k in knobs
        }
        front += surface.best({"method": (method,)} | values, against)
    return Problem(surface, lambda: SurfaceTrainable(surface), None, front, against, limit)


@dataclass(frozen=True)
class Contender:
    """A way to search.

    Attributes:
        sampler: As in a study file.
        rungs: As in a study file, or None.
        change: Takes a part away from the study, for an ablation.
        hours: Budget in hours instead of trials, or None.
        parts: Parts of `auto`; None for all of today.
    """

    sampler: str
    rungs: dict[str, Any] | None = None
    change: Callable[[Study], None] | None = None
    hours: float | None = None
    parts: tuple[Part, ...] | None = None


class AccuracyRungs(Rungs):
    """Successive halving on accuracy alone: everyone is everyone's rival, whatever the size."""

    def add(self, epoch: int, size: int, top1: float) -> None:
        """See `Rungs.add`."""
        super().add(epoch, 0, top1)

    def verdict(self, epoch: int, size: int, top1: float) -> Verdict | None:
        """See `Rungs.verdict`."""
        return super().verdict(epoch, 0, top1)


def halve_on_accuracy(study: Study) -> None:
    study.state.rungs = AccuracyRungs(**HALVING, epsilon=0.0, epochs=EPOCHS)


def unfair(study: Study) -> None:
    engine(study)._fair = False


class Blind(CandidateGenerator):
    """Knows of a candidate's size only what the trials of its method have had: the median."""

    known: Observations  # what the sampler knows

    def among(self, methods: Sequence[str], parents: Any, random: np.random.Generator) -> Candidates | None:
        """See `Choice.among`."""
        found = super().among(methods, parents, random)
        if found is None:
            return None
        of: dict[str, list[float]] = {}
        for method, decades in zip(self.known.methods, self.known.axis_positions(np.arange(len(self.known))), strict=True):
            of.setdefault(method, []).append(float(decades))
        decades = np.concatenate([np.full(len(codes), np.median(of.get(method, [3.0]))) for method, codes in found.points])
        features = found.features.copy()
        features[:, 0] = decades / 4.0  # as in `search.samplers.encoding`
        return found._replace(sizes=np.round(10.0**decades - 1.0), features=features)


def blind(study: Study) -> None:
    choice = engine(study)._choice
    choice.__class__ = Blind
    cast(Blind, choice).known = engine(study)._known


def engine(study: Study) -> Auto:
    return cast(Auto, study.state.sampler.rule)


CONTENDERS: dict[str, Contender] = {
    "auto": Contender("auto", RUNGS),
    "auto 312f83d": Contender("auto", RUNGS, parts=()),
    "auto 312f83d with shared columns": Contender("auto", RUNGS, parts=(Part.SHARED, Part.CLIPPED)),
    "auto 312f83d with noise": Contender("auto", RUNGS, parts=(Part.NOISE,)),
    "auto without noise": Contender("auto", RUNGS, parts=(Part.SHARED, Part.CLIPPED, Part.START)),
    "auto 312f83d with the start": Contender("auto", RUNGS, parts=(Part.START,)),
    "random": Contender("random"),
    "tpe": Contender("tpe"),
    "nsga2": Contender("nsga2"),
    "halving": Contender("random", HALVING, halve_on_accuracy),
    "auto without rungs": Contender("auto"),
    "auto without promotion": Contender("auto", RUNGS | {"promote": False}),
    "auto without free size": Contender("auto", RUNGS, blind),
    "auto without fairness": Contender("auto", RUNGS, unfair),
    "random with rungs": Contender("random", RUNGS),
}

HOURS = 3.0  # more than all runs of the table take together
EARLY = RUNGS | {"grace": 1}
IN_SECONDS: dict[str, Contender] = {
    "auto": CONTENDERS["auto"],
    "auto, hours": Contender("auto", EARLY, hours=HOURS),
    "auto, hours, rungs from epoch 3": Contender("auto", RUNGS, hours=HOURS),
    "auto, rungs from epoch 1": Contender("auto", EARLY),
    "random": CONTENDERS["random"],
    "tpe": CONTENDERS["tpe"],
}
N_WORKERS = 4


class Enough(Exception):
    """A search has reached what is measured."""


def search_in_seconds(where: Problem, how: Contender, seed: int) -> list[tuple[float, float]]:
    """(simulated seconds, normalised hypervolume) whenever it grew, until `ENOUGH` is reached or the table is exhausted."""
    budget = {"epochs": EPOCHS, "max_params": MAX_PARAMS, "max_hours": how.hours, "n_trials": None if how.hours else 10**6}
    file = check(
        {
            "study": "benchmark",
            "data": {"kind": "synthetic"},
            "methods": list(METHODS),
            "budget": budget,
            "search": {"sampler": how.sampler, "rungs": how.rungs, "seed": seed},
        }
    )
    clock = VirtualClock()
    study = create(file, where.sizes, clock, pool=where.pool)
    reference = pareto.hypervolume(where.front, study.reference_point)
    anchor, curve = math.nan, [(0.0, 0.0)]

    def look() -> None:
        nonlocal anchor
        if math.isnan(anchor) and study.state.trials[0].state.finished:
            anchor = study.hypervolume()
        reached = (study.hypervolume() - anchor) / (reference - anchor)
        if reached > curve[-1][1]:
            curve.append((round(clock.seconds, 2), reached))
        if reached >= ENOUGH:
            raise Enough

    with suppress(Enough):
        simulate(study, where.make, clock, n_workers=N_WORKERS, on_event=look)
    return curve


def study_of(file: StudyFile, where: Problem, how: Contender, clock: VirtualClock) -> Study:
    """A study in memory, with the contender's parts of `auto`."""
    facts = facts_of(file, where.sizes).as_json()
    if how.parts is not None:
        facts["auto"] = {"parts": list(how.parts), "n_trials": file.budget.n_trials}
    if where.pool is not None:
        facts["n_validation"] = N_VALIDATION
    ledger = InMemoryLedger(name=file.study, file=file.resolved(), facts=facts, now=clock)
    return Study(file, ledger, where.sizes, pool=where.pool)


def search(where: Problem, how: Contender, seed: int, *, most: int) -> tuple[list[tuple[int, float]], list[float]]:
    """(epochs spent, normalised hypervolume) whenever it grew, until `ENOUGH` or `most` epochs; the latter by trial too."""
    file = check(
        {
            "study": "benchmark",
            "data": {"kind": "synthetic"},
            "methods": list(METHODS),
            "objectives": ["val/top1", where.against],
            "budget": {"n_trials": 10**6, "epochs": EPOCHS, "limits": {where.against: where.limit}},
            "search": {"sampler": how.sampler, "rungs": how.rungs, "seed": seed},
        }
    )
    study = study_of(file, where, how, VirtualClock())
    if how.change is not None:
        how.change(study)
    trainable, spent, curve, after = where.make(), 0, [(0, 0.0)], list[float]()
    linear = where.against != "adapter_params"
    reference = pareto.hypervolume(where.front, study.reference_point, linear=linear)
    anchor = math.nan
    while spent < most and (trial := study.ask()) is not None:
        after += [curve[-1][1]] * (len(study.trials) - 1 - len(after))
        trainable.start(trial.config, seed=trial.seed, epochs=EPOCHS, folder=None)
        for _ in range(trial.epochs):
            trainable.step()
        epoch, decision = trial.epochs, Decision.CONTINUE
        while decision is Decision.CONTINUE:
            try:
                metrics = trainable.step()
            except FloatingPointError as error:
                study.tell(trial.number, State.FAILED, str(error))
                break
            spent, epoch = spent + 1, epoch + 1
            decision = study.report(trial.number, epoch, metrics)
        if trial.number == 0:
            anchor = study.hypervolume()
        reached = (study.hypervolume() - anchor) / (reference - anchor)
        if reached > curve[-1][1]:
            curve.append((spent, reached))
        if reached >= ENOUGH:
            break
    return curve, after


def run(asked: argparse.Namespace) -> None:
    """Runs what is missing."""
    path, problems, contenders, seeds, minutes = asked.path, asked.problems, asked.contenders, range(*asked.seeds), asked.minutes
    done = {(line["problem"], line["contender"], line["seed"]) for line in lines(path)}
    begun = time.monotonic()
    with path.open("a") as file:
        for seed in seeds:
            for name in problems:
                in_seconds = name == "seconds"
                where = problem("table" if in_seconds else name.removesuffix(" of today"), seed)
                ways = IN_SECONDS if in_seconds else {contender: CONTENDERS[contender] for contender in contenders}
                for contender, how in ways.items():
                    if (name, contender, seed) in done or time.monotonic() - begun > 60 * minutes:
                        continue
                    at = time.perf_counter()
                    curve, after = (
                        (search_in_seconds(where, how, seed), []) if in_seconds else search(where, how, seed, most=asked.most)
                    )
                    seconds = time.perf_counter() - at
                    line = {"problem": name, "contender": contender, "seed": seed, "seconds": round(seconds, 1)}
                    line["curve"] = [(epochs, round(share, 5)) for epochs, share in curve]
                    line["after"] = {str(n): round(after[n], 4) for n in AFTER if n < len(after)}
                    file.write(json.dumps(line) + "\n")
                    file.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("--path", type=Path, default=RESULTS / "search.jsonl")
    parser.add_argument("--problems", nargs="+", default=["table", *FAMILIES, "latency", "seconds"])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--seeds", nargs=2, type=int, default=(SEEDS.start, SEEDS.stop))
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    parser.add_argument("--most", type=int, default=MAX_EPOCHS, help="epochs of a search")
    asked = parser.parse_args()
    if asked.verb == "run":
        run(asked)
    else:
        report(asked.path)


if __name__ == "__main__":
    main()
