"""Honest selection: members retrained on train and validation together, with seeds, and tested once each."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from search.backends.base import Order, Outcome
from search.errors import RequestError
from search.results.saved_study import SavedStudy, load
from search.storage.sql_ledger import SqlLedger
from search.trial import State
from search.workflows.finalize import OF, REPEAT, finalize, finalized, p_front

from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

SMALL = [  # both trials are members of the front
    "--set", "budget.n_trials=2", "--set", "budget.epochs=1", "--set", "search.rungs=null", "--set", "search.sampler=random",
    "--set", "methods=[arc]", "--set", "space={arc.layers: last-2, optim.batch_size: 16}", "--back-end", "in-process",
]  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    with_mlflow_database(folder / "paretune-studies")
    done = paretune("run", "digits", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert len(load(folder / "paretune-studies" / "digits").members) == 2
    return folder


@pytest.fixture
def study(searched: Path, tmp_path: Path) -> SavedStudy:
    return load(shutil.copytree(searched / "paretune-studies" / "digits", tmp_path / "digits"))


class Worker:
    """A back end that trains nothing and remembers its orders; what it gets right depends on the seed alone."""

    def __init__(self, *, stop_after: int = 10**9, fail: int | None = None) -> None:
        self.orders: list[Order] = []
        self._stop_after = stop_after
        self._fail = fail

    def __call__(self, orders: Iterable[Order]) -> Iterator[Outcome]:
        for order in orders:
            if len(self.orders) == self._stop_after:
                raise KeyboardInterrupt
            self.orders.append(order)
            Path(order.folder).mkdir(parents=True, exist_ok=True)
            if order.number == self._fail:
                yield Outcome(order.number, {}, None, "the loss is not finite")
                continue
            correct = np.random.default_rng(order.seed).random(50) < 0.8
            yield Outcome(order.number, {"test/top1": float(correct.mean()), "test/loss": 0.5}, correct)


def test_every_member_is_retrained_with_the_same_new_seeds(study: SavedStudy) -> None:
    worker = Worker()
    members = finalize(study, n_seeds=3, retrain=worker)
    assert [member.trial.number for member in members] == [member.number for member in study.members]
    assert len(worker.orders) == 3 * len(members)
    assert len({order.seed for order in worker.orders}) == 3
    assert {order.seed for order in worker.orders}.isdisjoint(trial.seed for trial in study.history)
    by_config = {json.dumps(member.config, sort_keys=True) for member in study.members}
    assert {json.dumps(order.config, sort_keys=True) for order in worker.orders} == by_config
    assert all(order.epochs == 1 for order in worker.orders)
    for member in members:
        seeds = {order.seed for order in worker.orders}
        expected = [float((np.random.default_rng(seed).random(50) < 0.8).mean()) for seed in seeds]
        assert sorted(member.tested) == sorted(expected)
        assert member.mean == pytest.approx(np.mean(expected))
        assert member.deviation == pytest.approx(np.std(expected, ddof=1))


def test_interrupted_it_goes_on_and_more_seeds_add_to_what_there_is(study: SavedStudy) -> None:
    first, wanted = Worker(stop_after=2), 2 * len(study.members)
    with pytest.raises(KeyboardInterrupt):
        finalize(study, n_seeds=2, retrain=first)
    second = Worker()
    finalize(study, n_seeds=2, retrain=second)
    assert len(second.orders) == wanted - 2
    assert second.orders[0].number == 2  # started, never done: the same trial and checkpoint folder again
    third = Worker()
    members = finalize(study, n_seeds=3, retrain=third)
    assert len(third.orders) == len(study.members)
    assert all(len(member.tested) == 3 for member in members)
    assert finalized(study) == members
    assert finalize(study, n_seeds=3, retrain=Worker(stop_after=0)) == members  # nothing is met twice
    ledger = SqlLedger.open(study.folder / "final" / "ledger.db")
    trials = ledger.trials()
    ledger.close()
    assert all(trial.state is State.COMPLETE for trial in trials)
    pairs = list(itertools.product([member.number for member in study.members], range(3)))
    assert sorted((trial.config[OF], trial.config[REPEAT]) for trial in trials) == sorted(pairs)


def test_named_trials_take_the_place_of_the_front(study: SavedStudy) -> None:
    last, worker, again = study.members[-1].number, Worker(), Worker()
    named = finalize(study, n_seeds=2, retrain=worker, numbers=[last, last])
    assert [member.trial.number for member in named] == [last]
    assert len(worker.orders) == 2
    whole = finalize(study, n_seeds=2, retrain=again)
    assert len(again.orders) == 2 * (len(study.members) - 1)  # the named one is known already
    assert [member.trial.number for member in whole] == [member.number for member in study.members]


def test_only_complete_trials_can_be_named(study: SavedStudy) -> None:
    first, *rest = study.history
    pruned = dataclasses.replace(study, history=(dataclasses.replace(first, state=State.PRUNED), *rest))
    with pytest.raises(RequestError, match=f"trial {first.number}: it is PRUNED.*paretune trials digits --top 5"):
        finalize(pruned, n_seeds=1, retrain=Worker(), numbers=[first.number])
    with pytest.raises(RequestError, match="no trial 99"):
        finalize(study, n_seeds=1, retrain=Worker(), numbers=[99])


def test_a_model_that_fails_is_named_and_the_others_are_kept(study: SavedStudy) -> None:
    with pytest.raises(RequestError, match=r"could not be retrained: trial \d+: the loss is not finite"):
        finalize(study, n_seeds=2, retrain=Worker(fail=1))
    again = Worker()
    finalize(study, n_seeds=2, retrain=again)
    assert len(again.orders) == 1


def test_a_study_without_a_front_has_nothing_to_finalize(searched: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(searched / "paretune-studies" / "digits", tmp_path / "digits")
    empty = dataclasses.replace(load(folder), history=())
    with pytest.raises(RequestError, match="has no front yet"):
        finalize(empty, n_seeds=2, retrain=Worker())


# -- the odds of being on the front ------------------------------------------------------------------------------------


def test_with_one_image_and_one_seed_the_odds_are_the_front_itself() -> None:
    right, wrong = np.array([[True]]), np.array([[False]])
    assert p_front([0, 10, 20], [wrong, right, right], seed=0) == [1.0, 1.0, 0.0]


def test_the_smallest_is_always_on_the_front_and_its_equal_in_everything_too() -> None:
    models = np.random.default_rng(1).random((3, 40)) < 0.5
    assert p_front([5, 9, 9], [models, models, models], seed=0, n=200)[0] == 1.0
    one = models[:1]
    assert p_front([9, 9], [one, one], seed=0, n=200) == [1.0, 1.0]  # the same images are drawn for all


def test_the_odds_are_those_of_the_binomial() -> None:
    """Member 0 is right everywhere on 12 of 20 images, member 1 on those and 2 more: it leads when one of the 2 is drawn."""
    small = np.arange(20)[None] < 12
    large = np.arange(20)[None] < 14
    odds = p_front([1, 2], [small, large], seed=3, n=4000)
    expected = 1 - (1 - 2 / 20) ** 20
    assert odds[0] == 1.0
    assert odds[1] == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)


def test_seeds_are_drawn_too() -> None:
    """One of two models is right everywhere, the other nowhere: it beats a half when both draws are right, or the images help."""
    coin = np.stack([np.ones(100, bool), np.zeros(100, bool)])
    half = np.arange(100)[None] < 50
    odds = p_front([1, 2], [half, coin], seed=0, n=4000)
    # 1/4 both right: wins. 1/4 both wrong: loses. 1/2 one of each: 0.5 against what is drawn of the half, symmetric but for ties.
    tie = sum(np.exp(_log_binomial(100, k)) for k in (50,))
    expected = 0.25 + 0.5 * (1 - tie) / 2
    assert odds[1] == pytest.approx(expected, abs=0.03)


def _log_binomial(n: int, k: int) -> float:
    from math import lgamma, log

    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) - n * log(2)


# -- for real ----------------------------------------------------------------------------------------------------------


def test_the_command_retrains_on_train_and_validation_and_tests_once(searched: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(searched, tmp_path / "copy")
    done = paretune("finalize", "digits", "--seeds", "2", "--back-end", "in-process", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    saved = load(folder / "paretune-studies" / "digits")
    assert [row["trial"] for row in rows] == [member.number for member in saved.members]
    for row in rows:
        assert row["n"] == 2
        assert row["test/top1_mean"] > 0.3  # far above chance, a tenth
        assert row["test/top1_mean"] > row["val/top1"] - 0.1  # five times as many images to train on
        assert 0.0 <= row["p_front"] <= 1.0
    correct = np.load(saved.folder / "final" / "trials" / "0000" / "correct.npy")
    assert correct.shape == (797,)
    assert (saved.folder / "final.parquet").exists()
    client = MlflowClient(f"sqlite:///{folder / 'paretune-studies' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = {run.data.tags.get("paretune.trial"): run for run in client.search_runs([experiment.experiment_id])}
    for row in rows:
        assert runs[str(row["trial"])].data.metrics["final/top1_mean"] == row["test/top1_mean"]
    again = paretune("finalize", "digits", "--seeds", "2", cwd=folder)  # with Ray, which is not even started
    assert again.returncode == 0, again.stderr
    assert "P(front)" in again.stdout
    assert f"Finalizing digits: {2 * len(rows)} of {2 * len(rows)} models" in again.stderr


def test_on_ray_it_is_the_same(searched: Path, tmp_path: Path, embedded_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.connect.connected", lambda n_cpus: contextlib.nullcontext())  # to the Ray that is here already
    found = []
    for back_end in ("ray", "in-process"):
        folder = shutil.copytree(searched, tmp_path / back_end)
        done = paretune("finalize", "digits", "--seeds", "1", "--json", "--back-end", back_end, cwd=folder)
        assert done.returncode == 0, done.stderr
        found.append([(row["trial"], row["test/top1_mean"]) for row in json.loads(done.stdout)])
    assert found[0] == found[1]


def test_a_data_set_without_a_test_split_is_told(tmp_path: Path) -> None:
    synthetic = "study: syn\ndata: {kind: synthetic}\nmethods: [lora]\nbudget: {n_trials: 2, epochs: 2}\n"
    (tmp_path / "syn.yaml").write_text(synthetic)
    assert paretune("run", "syn.yaml", "--back-end", "in-process", cwd=tmp_path).returncode == 0
    done = paretune("finalize", "syn", "--back-end", "in-process", cwd=tmp_path)
    assert done.returncode == 2
    assert "a synthetic surface has no test split" in done.stderr
