"""The memory that is measured with a few batches, and the worker that is left as it was."""

from __future__ import annotations

import spaces
from trainables import probed_memory
from trainables.tasks.base import EVAL_BATCH
from trainables.training.probe import N_BATCHES, Short

WORKER = {"backbone": {"name": "vit_glyphs"}, "data": {"kind": "digits"}, "recipe": {"n_threads": 1}}


def test_a_short_epoch_trains_a_few_batches_and_leaves_the_worker_as_it_was() -> None:
    trial, config = Short(*WORKER.values()), spaces.joint(["lora"]).default("lora") | {"optim.batch_size": 4}
    whole = dict(trial._splits)
    trial.start(config, seed=0, epochs=2, folder=None)
    assert len(trial._splits["train"]) == 4 * N_BATCHES < len(whole["train"])
    assert len(trial._splits["validation"]) <= N_BATCHES * EVAL_BATCH
    trial.finish()
    assert trial._splits == whole
    assert trial.peak_bytes(config) > 0
    assert trial._splits == whole


def test_the_memory_of_each_method_is_its_largest() -> None:
    config = spaces.joint(["lora"]).default("lora") | {"optim.batch_size": 2}
    found = probed_memory(WORKER, [{"method": "head_only"}, config, config | {"optim.batch_size": 4}])
    assert found["peak_bytes"].keys() == {"head_only", "lora"}
    assert all(value > 0 for value in found["peak_bytes"].values())
    assert found["host_bytes"] > 0
