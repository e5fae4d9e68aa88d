"""The seconds of an epoch of each configuration: predicted before training, and corrected by the steps that trials reported.

Predicted seconds are work times the constants of a machine. Some methods take longer than that, because of kernels that the
constants do not describe. Trials of the study, and of other studies of the storage on the same backbone, tell by how much.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from search.config.study_file import StudyFile
from search.errors import LedgerError
from search.storage.facts import PrefixFact
from search.storage.location import list_locations
from search.storage.sql_ledger import open_ledger
from search.trial import Trial
from spaces import Config

if TYPE_CHECKING:
    from trainables.costs.speed import Speed
    from trainables.costs.work import EpochWork

MOST_STUDIES, MOST_TRIALS = 6, 5  # studies that are read, the newest; trials of each method of a study
STEP = "cost/step_seconds"
Progress = Callable[[str, int, int], None]  # (what is done, number done, number of all)


@dataclass(frozen=True)
class Reported:
    """The seconds of a training step that a trial reported.

    Attributes:
        study: Folder of its study.
        is_own: True if that is the study for which epochs are predicted.
        config: Configuration.
        step_seconds: Seconds of a step of its last epoch.
    """

    study: str
    is_own: bool
    config: Config
    step_seconds: float


@dataclass(frozen=True)
class Predicted:
    """The predicted cost of a configuration.

    Attributes:
        config: Configuration.
        epoch_seconds: Seconds to train and validate an epoch.
        correction: Factor by which trials differ from the machine's constants, part of `epoch_seconds`.
    """

    config: Config
    epoch_seconds: float
    correction: float = 1.0


def reports(file: StudyFile, prefix: PrefixFact) -> list[Reported]:
    """Read what trials on this study's backbone reported, its own first; a study that cannot be read tells nothing.

    Args:
        file: Study file.
        prefix: Places where tokens are kept, with which epochs are predicted. A study that keeps others has other epochs.
    """
    others = [location.folder for location in list_locations(file.storage).studies if location.folder != file.folder]
    newest = sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True)[: MOST_STUDIES - 1]
    found: list[Reported] = []
    for folder in (file.folder, *newest):
        with suppress(LedgerError), open_ledger(folder) as ledger:
            row = ledger.study()
            told, kept = row.file, row.facts.prefix or PrefixFact()
            same = _network(told["backbone"]) == _network(file.backbone.model_dump()) and kept.cuts == prefix.cuts
            if told["data"]["kind"] != "synthetic" and same:
                trials = (trial for trial in reversed(ledger.trials()) if trial.epochs > 1 and STEP in trial.metrics)
                found += [Reported(folder.name, folder == file.folder, t.config, t.metrics[STEP]) for t in _few_of_each(trials)]
    return found


def _network(backbone: Mapping[str, object]) -> tuple[object, object]:
    return backbone["name"], backbone["img_size"]


def _few_of_each(trials: Iterable[Trial]) -> Iterator[Trial]:
    counts = Counter[str]()
    for trial in trials:
        counts[trial.method] += 1
        if counts[trial.method] <= MOST_TRIALS:
            yield trial


def corrections(found: Iterable[Reported], step_seconds: Callable[[Config], float]) -> Mapping[str, float]:
    """Return the factor of each method between reported and predicted steps; of a method without trials, the study's own factor.

    The trials of the study itself ran where the study runs, with its neighbours, so their seconds count as they are. Other
    studies may have run on another machine: only their differences between methods count.

    Args:
        found: Reports of trials.
        step_seconds: Prediction from the machine's constants; ValueError for a configuration that is not valid any more.
    """
    studies: dict[tuple[str, bool], dict[str, list[float]]] = {}
    for report in found:
        with suppress(ValueError):
            ratio = report.step_seconds / step_seconds(report.config)
            of_a_study = studies.setdefault((report.study, report.is_own), {})
            of_a_study.setdefault(str(report.config["method"]), []).append(ratio)
    level, own, others = 1.0, dict[str, float](), dict[str, list[float]]()
    for (_, is_own), ratios in studies.items():
        medians = {method: statistics.median(values) for method, values in ratios.items()}
        common = statistics.median(medians.values())
        if is_own:
            level, own = common, medians
            continue
        for method, ratio in medians.items():
            others.setdefault(method, []).append(ratio / common)
    of_others = {method: level * statistics.median(values) for method, values in others.items()}
    return defaultdict(lambda: level, of_others | own)


def predict(
    configs: Sequence[Config], work: EpochWork, speed: Speed, told: Sequence[Reported], *, seconds: float, on_done: Progress
) -> list[Predicted]:
    """Predict the seconds of an epoch of each configuration.

    Args:
        configs: Valid configurations; the first of each method is predicted in any case.
        work: Counter of work.
        speed: Constants of the machine.
        told: Reports of trials; half of the time is for the corrections.
        seconds: Time after which no further configuration of a method is counted.
        on_done: Callback for progress.
    """
    until = time.perf_counter() + seconds
    in_time = takewhile(lambda report: time.perf_counter() < until - seconds / 2, told)
    factors = corrections(in_time, lambda config: speed.seconds(work.step(config)))
    found: list[Predicted] = []
    for done, config in enumerate(_in_turns(configs)):
        method = str(config["method"])
        if time.perf_counter() > until and any(one.config["method"] == method for one in found):
            continue
        factor = factors[method]
        found.append(Predicted(config, factor * speed.seconds(work.epoch(config)), factor))
        on_done("predicting epochs", done + 1, len(configs))
    return found


def _in_turns(configs: Sequence[Config]) -> list[Config]:
    """Order configurations so that each method has its first one before any has its second."""
    turns, counts = [], Counter[str]()
    for config in configs:
        counts[str(config["method"])] += 1
        turns.append(counts[str(config["method"])])
    return [config for _, config in sorted(zip(turns, configs, strict=True), key=lambda pair: pair[0])]
