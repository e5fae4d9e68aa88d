"""The metrics by which a study may judge its trials: one table of their names, directions, units and chance levels.

What compares trials (front, rungs, samplers, hypervolume) compares *scores*: larger is better and 1 is perfect. The score is the
metric itself, or 1 minus it if smaller is better, so that 1 - score is an error in both cases. What a user sees is the metric.

`trainables.tasks.quality` computes them; this module is plain data, so that reading a study needs no torch.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class TaskWords:
    """The labels of a task, in words.

    Attributes:
        labels: Labels of an image: "one label".
        each: Labels of each image where they are told apart: "a list of labels".
    """

    labels: str
    each: str


CLASSIFICATION: Final = "classification"
MULTILABEL: Final = "multilabel"
SEGMENTATION: Final = "segmentation"
TASKS: Final = {  # as `trainables.tasks` names them
    CLASSIFICATION: TaskWords("one label", "one label"),
    MULTILABEL: TaskWords("any number", "a list of labels"),
    SEGMENTATION: TaskWords("masks", "a mask"),
}


@dataclass(frozen=True)
class Metric:
    """One metric of predictions.

    Attributes:
        key: Name under which epochs report it: `val/NAME`.
        label: Name in sentences and on axes.
        larger_is_better: True for accuracies, False for losses.
        in_percent: True if it is a fraction that is shown in percent.
        chances: Value of a guess among so many classes, where the hypervolume begins, for each task that the metric fits.
        hides_rare_classes: True if it is good where only the commonest class is predicted well.
    """

    key: str
    label: str
    larger_is_better: bool
    in_percent: bool
    chances: Mapping[str, Callable[[int], float]]
    hides_rare_classes: bool = False

    @property
    def name(self) -> str:
        """The name without its split: `macro_f1`."""
        return self.key.removeprefix("val/")

    @property
    def on_test(self) -> str:
        """The name under which `finalize` reports it: `test/macro_f1`."""
        return f"test/{self.name}"

    def on_watched(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the metric on each watched data set, `watch/SET/macro_f1`, by the set's name."""
        first, last = "watch/", f"/{self.name}"
        return {k[len(first) : -len(last)]: v for k, v in scores.items() if k.startswith(first) and k.endswith(last)}

    @property
    def heading(self) -> str:
        """The heading of a table's column: `val/top1 %`."""
        return self.key + (" %" if self.in_percent else "")

    @property
    def axis(self) -> str:
        """The title of an axis."""
        return f"validation {self.label}" + (", %" if self.in_percent else "")

    def score(self, value: float) -> float:
        """Return the score of a value, and the value of a score."""
        return value if self.larger_is_better else 1.0 - value

    def shown(self, value: float) -> float:
        """Return a value in the unit in which it is shown."""
        return 100.0 * value if self.in_percent else value

    def format(self, value: float) -> str:
        """Format a value without its unit: `93.12` of 100, or `0.2154`."""
        return f"{100 * value:.2f}" if self.in_percent else f"{value:.4f}"

    def words(self, value: float) -> str:
        """Format a value with its unit."""
        return self.format(value) + (" %" if self.in_percent else "")

    def guess(self, n_classes: int, task: str = CLASSIFICATION) -> float:
        """Return the value of a guess among so many classes in a task that the metric fits."""
        return self.chances[task](n_classes)

    def standard_error(self, value: float, n_images: int | None) -> float | None:
        """Return the standard error of a value measured on n images: sqrt(p (1 - p) / n) of an accuracy, else None (unknown)."""
        if n_images is None or self.key != TOP1:
            return None
        return math.sqrt(value * (1.0 - value) / n_images)


def _chances(one: Callable[[int], float] | None = None, many: float | None = None) -> dict[str, Callable[[int], float]]:
    """Return the chance levels for images with one label, and with any number of them."""
    return ({} if one is None else {CLASSIFICATION: one}) | ({} if many is None else {MULTILABEL: lambda n: many})


TOP1: Final = "val/top1"
MIOU: Final = "val/miou"
_ALL: Final = (
    Metric(TOP1, "accuracy", True, True, _chances(lambda n: 1.0 / n), hides_rare_classes=True),
    Metric("val/macro_f1", "macro F1", True, True, _chances(lambda n: 1.0 / n, 0.0)),
    Metric("val/balanced_accuracy", "balanced accuracy", True, True, _chances(lambda n: 1.0 / n)),
    Metric("val/auroc", "AUROC", True, False, _chances(lambda n: 0.5, 0.5)),
    Metric("val/map", "mean average precision", True, True, _chances(many=0.0)),
    Metric(MIOU, "mean IoU", True, True, {SEGMENTATION: lambda n: 1.0 / (2.0 * n - 1.0)}),
    Metric("val/log_loss", "log loss", False, False, _chances(math.log), hides_rare_classes=True),
    Metric("val/ece", "calibration error", False, True, _chances(lambda n: 1.0 - 1.0 / n), hides_rare_classes=True),
)
METRICS: Final = {metric.key: metric for metric in _ALL}


def unknown(key: str) -> str | None:
    """Return what is wrong with the name of a metric, or None."""
    if key in METRICS:
        return None
    word = key.rpartition("/")[2].lower()
    words = (
        {"mean_average_precision": "val/map", "iou": MIOU, "mean_iou": MIOU}
        | {metric.label.lower(): metric.key for metric in _ALL}
        | {metric.name: metric.key for metric in _ALL}
    )
    near = [word] if word in words else [known for known in words if word and word in known]
    near = near or difflib.get_close_matches(word, words, n=1)
    return f"{key!r} is not a metric" + (f"; did you mean {words[near[0]]}?" if near else f"; choose one of {', '.join(METRICS)}")


def unfit(key: str, task: str) -> str | None:
    """Return why labels do not allow a metric, or None.

    Args:
        key: Name of the metric.
        task: Name of the task that the labels ask.
    """
    if task in METRICS[key].chances:
        return None
    allowed = [metric.key for metric in _ALL if task in metric.chances]
    return f"{key} does not fit these labels, because each image has {TASKS[task].each}; choose one of {', '.join(allowed)}"
