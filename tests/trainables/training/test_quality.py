"""Metrics of answers against scikit-learn's, or their definition, on random cases with absent classes and ties."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from search.metrics import METRICS as TABLE
from trainables import make
from trainables.tasks.quality import METRICS, METRICS_OF_MANY, N_BINS, measure

from ..short import shortened

SETTINGS = settings(max_examples=40, deadline=None)


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of few distinct values, so that images and classes tie, and labels of some of the classes."""
    n_classes, n_images, seed = draw(st.integers(2, 6)), draw(st.integers(1, 40)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, draw(st.integers(2, 5)), size=(n_images, n_classes)).astype(float)
    occurring = rng.permutation(n_classes)[: draw(st.integers(1, n_classes))]
    probabilities = np.exp(logits)
    return probabilities / probabilities.sum(1, keepdims=True), rng.choice(occurring, size=n_images)


@st.composite
def answers_of_many(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """The same for images with any number of labels."""
    n_classes, n_images, seed = draw(st.integers(2, 5)), draw(st.integers(1, 30)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 5, size=(n_images, n_classes)) / 4
    return probabilities, (rng.random((n_images, n_classes)) < draw(st.sampled_from([0.05, 0.4, 0.95]))).astype(np.int64)


def test_the_search_and_the_workers_know_the_same_metrics() -> None:
    assert {metric.name for metric in TABLE.values() if "classification" in metric.chances} == METRICS.keys()
    assert {metric.name for metric in TABLE.values() if "multilabel" in metric.chances} == METRICS_OF_MANY.keys()


@SETTINGS
@given(answers_of_many())
def test_metrics_of_many_labels_are_scikit_learns_class_by_class(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = case
    columns = list(zip(labels.T, probabilities.T, strict=True))
    f1 = [f1_score(y, p >= 0.5, zero_division=0) for y, p in columns if y.any() or (p >= 0.5).any()]
    assert measure("macro_f1", *case) == pytest.approx(np.mean(f1) if f1 else 0.0)
    precision = [average_precision_score(y, p) for y, p in columns if y.any()]
    assert measure("map", *case) == pytest.approx(np.mean(precision) if precision else math.nan, nan_ok=True)
    ranked = [roc_auc_score(y, p) for y, p in columns if 0 < y.sum() < len(y)]
    assert measure("auroc", *case) == pytest.approx(np.mean(ranked) if ranked else math.nan, nan_ok=True)


@SETTINGS
@given(answers())
def test_metrics_of_the_answered_class_are_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = case
    answered = probabilities.argmax(1)
    assert measure("top1", *case) == pytest.approx(accuracy_score(labels, answered))
    assert measure("macro_f1", *case) == pytest.approx(f1_score(labels, answered, average="macro", zero_division=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert measure("balanced_accuracy", *case) == pytest.approx(balanced_accuracy_score(labels, answered))


@SETTINGS
@given(answers())
def test_metrics_of_the_probabilities_are_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = case
    assert measure("log_loss", *case) == pytest.approx(log_loss(labels, probabilities, labels=range(probabilities.shape[1])))
    one_against_rest = [(labels == c, probabilities[:, c]) for c in range(probabilities.shape[1])]
    known = [roc_auc_score(*pair) for pair in one_against_rest if 0 < pair[0].sum() < len(labels)]
    assert measure("auroc", *case) == pytest.approx(np.mean(known) if known else math.nan, nan_ok=True)


@SETTINGS
@given(answers())
def test_the_calibration_error_is_its_definition(case: tuple[np.ndarray, np.ndarray]) -> None:
    """Guo et al. (2017), equations 2 to 5, image by image."""
    probabilities, labels = case
    total = 0.0
    for m in range(N_BINS):
        inside = [i for i, row in enumerate(probabilities) if m / N_BINS < row.max() <= (m + 1) / N_BINS]
        if inside:
            right = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            total += len(inside) / len(labels) * abs(right - np.mean([probabilities[i].max() for i in inside]))
    assert measure("ece", *case) == pytest.approx(total)


def test_of_every_class_the_macro_auroc_is_scikit_learns_multi_class_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 4
    probabilities = rng.dirichlet(np.ones(4), size=60).round(1) + 0.05
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert measure("auroc", probabilities, labels) == pytest.approx(expected)


def test_a_metric_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"a metric is one of top1, macro_f1, .* got 'f2'"):
        measure("f2", np.ones((1, 2)), np.zeros(1, int))


# -- in a trial --------------------------------------------------------------------------------------------------------

BACKBONE = {"name": "test_vit", "weights": "random", "img_size": 32}
HEAD_ONLY: dict[str, Any] = {"method": "head_only", "optim.lr": 3e-3, "optim.batch_size": 32, "recipe.drop_path": 0.0}


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric != "top1"])
def test_an_epoch_reports_the_studys_metric_of_its_validation_pass_and_is_the_same_otherwise(metric: str) -> None:
    told = {}
    for name in ("top1", metric):
        trial = shortened(make(BACKBONE, {"kind": "digits"}, {"device": "cpu", "metric": name}), n_validation=40)
        trial.start(HEAD_ONLY, seed=0, epochs=1, folder=None)
        told[name] = {key: value for key, value in trial.step().items() if not key.startswith("cost/")}
    own = told[metric].pop(f"val/{metric}")
    assert told[metric] == told["top1"]
    probabilities = trial.kept("validation").double().softmax(-1).numpy()
    assert own == measure(metric, probabilities, trial._splits["validation"].labels.numpy())
    assert {f"val/{metric}": own} == {k: v for k, v in (trial.replay() or {}).items() if k == f"val/{metric}"}


def test_class_weights_are_those_of_the_training_split_alone() -> None:
    """Training on twice as many of one class with weights has the first loss of the balanced split, whatever validates."""
    trial = shortened(make(BACKBONE, {"kind": "digits"}, {"device": "cpu", "class_weights": "balanced"}))
    train, validation = trial._splits["train"], trial._splits["validation"]
    labels = train.labels % 2 * (torch.arange(len(train.labels)) % 3 == 0)  # of two classes, one of them rare
    trial._splits["train"] = replace(train, labels=labels)
    trial._splits["validation"] = replace(validation, labels=torch.zeros_like(validation.labels))
    trial.start({**HEAD_ONLY, "optim.batch_size": len(labels)}, seed=0, epochs=1, folder=None)
    found = trial._class_weights(trial._running())
    assert found is not None
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels.numpy())
    assert found[:2].tolist() == pytest.approx(expected.tolist())
    losses = F.cross_entropy(trial.kept("train"), labels, reduction="none")
    by_class = [losses[labels == label].mean() for label in (0, 1)]
    assert trial.step()["train/loss"] == pytest.approx(float(sum(by_class)) / 2, rel=1e-4)
