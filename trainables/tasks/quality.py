"""The metrics of a model's answers, from their probabilities. scikit-learn and SciPy compute them, but for the calibration error.

A class without an image of its own has no recall and no ranking, and is left out of a mean over classes, as in scikit-learn. This
module needs no torch, so that a test set can be drawn again and again from stored answers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating[Any]]  # (n, classes); rows sum to one, unless an image may have several labels
Labels = NDArray[np.integer[Any]]  # (n,): the class of each image; or (n, classes): 1 for each of its labels; of masks see below
Answers = tuple[NDArray[np.float64], NDArray[np.int64]]  # probabilities and labels of a split's images, in order
N_BINS: Final = 15  # of the calibration error, as in Guo et al. (ICML 2017)


def load(metric: str) -> None:
    """Import the library that computes a metric, which takes a second, before an epoch is timed."""
    if metric in METRICS_OF_MASKS:
        return
    labels = np.arange(2) if metric in METRICS else np.eye(2, dtype=np.int64)
    measure(metric, np.full((2, 2), 0.5), labels)


def measure(metric: str, probabilities: Probabilities, labels: Labels) -> float:
    """Compute a metric.

    Args:
        metric: Name, one of `METRICS`.
        probabilities: Probabilities (n, classes) that the model gives.
        labels: Class (n,) of each image, or 1 for each of its labels (n, classes).

    Both are counts of pixels if images have masks, see `METRICS_OF_MASKS`.

    Returns:
        The metric; NaN if the labels do not determine it: `auroc` needs images with and without a label.

    Raises:
        ValueError: If there is no such metric of these labels.
    """
    known = {1: METRICS, 2: METRICS_OF_MANY, 3: METRICS_OF_MASKS}[labels.ndim]
    if metric not in known:
        raise ValueError(f"a metric is one of {', '.join(known)}; got {metric!r}")
    with warnings.catch_warnings():  # of classes that no image has, or that are never answered
        warnings.simplefilter("ignore")
        return known[metric](probabilities, labels)


def _top1(probabilities: Probabilities, labels: Labels) -> float:
    return float((probabilities.argmax(-1) == labels).mean())


def _macro_f1(probabilities: Probabilities, labels: Labels) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, probabilities.argmax(-1), average="macro", zero_division=0.0))


def _balanced_accuracy(probabilities: Probabilities, labels: Labels) -> float:
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(labels, probabilities.argmax(-1)))


def _auroc(probabilities: Probabilities, labels: Labels) -> float:
    """Compute the mean over classes of the probability that an image of the class is ranked above another one.

    This is Mann and Whitney's U of each class, from one ranking of all columns. scikit-learn takes 1 ms for each class.
    """
    from scipy.stats import rankdata

    return _mean_over_classes(rankdata(probabilities, axis=0), labels[:, None] == np.arange(probabilities.shape[1]))


def _mean_over_classes(ranks: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> float:
    n_positive = positive.sum(0)
    usable = (n_positive > 0) & (n_positive < len(positive))
    if not usable.any():
        return math.nan
    ranks, positive, n_positive = ranks[:, usable], positive[:, usable], n_positive[usable]
    above = (ranks * positive).sum(0) - n_positive * (n_positive + 1) / 2
    return float((above / (n_positive * (len(positive) - n_positive))).mean())


def _log_loss(probabilities: Probabilities, labels: Labels) -> float:
    from sklearn.metrics import log_loss

    return float(log_loss(labels, probabilities, labels=range(probabilities.shape[1])))


def _ece(probabilities: Probabilities, labels: Labels) -> float:
    """Compute the expected calibration error: |accuracy - confidence| of equally wide bins of confidence, by their images."""
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == labels
    bins = np.clip(np.ceil(confidence * N_BINS).astype(int) - 1, 0, N_BINS - 1)  # (0, 1/15], (1/15, 2/15], ...
    return float(np.abs(np.bincount(bins, right - confidence, minlength=N_BINS)).sum() / len(labels))


METRICS: Final[dict[str, Callable[[Probabilities, Labels], float]]] = {
    "top1": _top1,
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "auroc": _auroc,
    "log_loss": _log_loss,
    "ece": _ece,
}


# -- any number of labels ----------------------------------------------------------------------------------------------------------


def _macro_f1_of_many(probabilities: Probabilities, labels: Labels) -> float:
    """Compute the mean of F1 over the classes that an image has or is given, which takes a probability of one half."""
    from sklearn.metrics import f1_score

    return float(np.nan_to_num(f1_score(labels, probabilities >= 0.5, average="macro", zero_division=np.nan)))


def _auroc_of_many(probabilities: Probabilities, labels: Labels) -> float:
    from scipy.stats import rankdata

    return _mean_over_classes(rankdata(probabilities, axis=0), labels == 1)


def _map(probabilities: Probabilities, labels: Labels) -> float:
    from sklearn.metrics import average_precision_score

    occurring = labels.any(0)
    if not occurring.any():
        return math.nan
    return float(average_precision_score(labels[:, occurring], probabilities[:, occurring], average="macro"))


METRICS_OF_MANY: Final[dict[str, Callable[[Probabilities, Labels], float]]] = {
    "macro_f1": _macro_f1_of_many,
    "auroc": _auroc_of_many,
    "map": _map,
}


# -- masks -------------------------------------------------------------------------------------------------------------------------


def _miou(counts: Probabilities, true: Labels) -> float:
    """Compute the mean over classes of intersection over union, from the confusion matrix of all images together.

    Its diagonal and the sums of its rows and columns suffice. A class without a pixel in the masks is left out, so that all models
    are judged by the same classes.
    """
    right, answered = counts.sum(0)
    wanted = true.sum((0, 1))
    occurring = wanted > 0
    if not occurring.any():
        return math.nan
    union = answered + wanted - right
    return float((right[occurring] / union[occurring]).mean())


# counts of pixels in each image: the right and the answered ones of each class (n, 2, classes), those that have it (n, 1, classes)
METRICS_OF_MASKS: Final[dict[str, Callable[[Probabilities, Labels], float]]] = {"miou": _miou}
