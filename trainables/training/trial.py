"""The trainable that adapts a frozen Vision Transformer, and that one worker reuses for trial after trial.

The backbone and the decoded images are loaded once. `start` adds a new adapter, head, optimiser and random state. `step` trains
one epoch. `finish` removes everything again and verifies by a fingerprint that the frozen weights have not changed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables import backbones, data
from trainables.adapters import (
    adapt,
    adaptation,
    method_of,
    remove,
    supported_blocks,
)
from trainables.adapters.own import own_methods
from trainables.costs.counting import forward_gflops, structure
from trainables.costs.memory import forget_peak, peak_bytes
from trainables.data import watched
from trainables.folder import Folder
from trainables.protocol import raise_if_stopped
from trainables.recipe.cut import after, hold_frozen_blocks
from trainables.recipe.recipe import learning_rate, learning_rate_of_epoch, recipe_of
from trainables.recipe.step import backward, logits
from trainables.tasks import quality
from trainables.torch_internals import use_deterministic_algorithms
from trainables.training import checkpoint
from trainables.training.prefix import Inputs, Prefixes
from trainables.training.run import Plan, Run


class AdapterWorker:
    """The adapter training of one worker, see `trainables.protocol.Trainable`. Not thread-safe.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        data_set: The `data` argument of `trainables.make`.
        recipe: The `recipe` argument of `trainables.make`.
        methods: The `methods` argument of `trainables.make`.
        final: True to train on the train and validation splits together, skip validation, and load the test split for `correct`.

    Raises:
        ValueError: If the backbone, data set or recipe is unknown, or adapters do not support the backbone.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        data_set: Mapping[str, Any],
        recipe: Mapping[str, Any],
        methods: Sequence[Mapping[str, Any]] = (),
        *,
        final: bool = False,
    ) -> None:
        self._fixed, self._own = dict(recipe), own_methods(methods)
        fixed = recipe_of(recipe, {})
        self.device = torch.device(fixed.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"), self.device)
        supported_blocks(self.model)
        quality.load(fixed.metric)
        self._pristine = backbones.fingerprint(self.model)
        backbones.refuse_changed(backbone, backbones.digest_of(self._pristine))
        wanted = backbones.preprocessing(self.model, data_set.get("normalize", "backbone"))
        data.look_again()
        self.n_classes, self.task = data.n_classes(data_set), data.task_of(data_set)
        self._data_set, self._wanted, self._fold = dict(data_set), wanted, 0
        splits = data.load_final(data_set, wanted) if final else data.load(data_set, wanted)
        self._splits = {name: split.to(self.device) for name, split in splits.items()}
        self._watched = {name: one.split.to(self.device) for name, one in watched.load(data_set, wanted).items()}
        self._normalise = data.Normaliser(wanted, self.device)
        self._requires_grad = [parameter.requires_grad for parameter in self.model.parameters()]
        about = {"name": backbone["name"], "weights": data.digest_of(repr(sorted(self._pristine.items()))), "input": asdict(wanted)}
        self._prefixes = Prefixes(self.model, self._normalise, about, fixed.prefix_cuts, fixed.prefix_bytes)
        self._gflops: dict[Any, float] = {}
        self._run: Run | None = None

    def start(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder | None, fold: int = 0) -> int:
        """See `trainables.protocol.Trainable.start`.

        Raises:
            ValueError: If the configuration does not fit the backbone, or the checkpoint belongs to another trial.
        """
        if self._run is not None or adaptation(self.model) is not None:
            self.finish()
        self._divide(fold)
        method, recipe = method_of(config, self._own), recipe_of(self._fixed, config)
        plan = Plan(dict(config), seed, epochs, recipe, folder)
        saved = None if folder is None else checkpoint.read(folder)
        if saved is not None:
            plan.check(saved.facts)
        torch.set_num_threads(recipe.n_threads)
        use_deterministic_algorithms(warn_only=self.device.type != "cpu", compiled=recipe.compile)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(seed)
        self.task.set_head(self.model, self.n_classes, generator, recipe.head_init)
        adapt(self.model, method, generator=generator)
        self._run = Run(self.model, plan, generator, self.device)
        if saved is not None:
            self._run.load(saved)
        forget_peak(self.device)
        return self._run.epoch

    def _divide(self, fold: int) -> None:
        """Load the splits of another fold, unless they are loaded."""
        if fold != self._fold:
            splits = data.load({**self._data_set, "fold": fold}, self._wanted)
            self._splits = {name: split.to(self.device) for name, split in splits.items()}
            self._prefixes.forget()
            self._fold = fold

    def _of_a_forward_pass(self, run: Run) -> dict[str, float]:
        """Return the per-image costs of the current model; operations are counted once for all trials of the same structure."""
        shapes = (structure(run.method), tuple((name, p.shape) for name, p in run.trained.items()))
        if shapes not in self._gflops:
            self._gflops[shapes] = forward_gflops(self.model)
        return {"cost/gflops": self._gflops[shapes]} | (run.latency() if run.plan.recipe.latency else {})

    def replay(self) -> dict[str, float] | None:
        """See `trainables.protocol.Trainable.replay`."""
        return self._running().metrics

    def step(self) -> dict[str, float]:
        """See `trainables.protocol.Trainable.step`."""
        run = self._running()
        if run.epoch >= run.plan.epochs:
            raise RuntimeError(f"the trial has already trained all of its {run.plan.epochs} epochs; call finish")
        begun = time.perf_counter()
        with run.random:
            train_loss, n_images = self._train(run)
        run.method.after_epoch(self.model, run.epoch + 1, run.plan.epochs, lambda: self._gradients(run))
        smaller = run.keep_what_is_left()
        trained = time.perf_counter()
        validated = self._validated(run) if "validation" in self._splits else {}
        evaluated = time.perf_counter()
        seen = self._watched_scores(run) if run.epoch + 1 == run.plan.epochs else {}
        if smaller or not run.costs:
            run.costs = self._of_a_forward_pass(run)
        run.epoch += 1
        run.metrics = (
            validated
            | seen
            | {
                "train/loss": train_loss,
                "cost/train_seconds": trained - begun,
                "cost/eval_seconds": evaluated - trained,
                "cost/images_per_second": n_images / (trained - begun),
                "cost/step_seconds": (trained - begun) / math.ceil(n_images / run.plan.recipe.batch_size),
                "cost/peak_memory_bytes": float(peak_bytes(self.device)),
                **run.costs,
            }
        )
        if run.plan.folder is not None:
            checkpoint.write(run.plan.folder, run.saved())
        return dict(run.metrics)

    def _validated(self, run: Run) -> dict[str, float]:
        found = self._scores("val", self._splits["validation"].targets, self.kept("validation"))
        if not math.isfinite(loss := found["val/loss"]):
            raise FloatingPointError(
                f"the validation loss is not finite ({loss}) after epoch {run.epoch + 1} of {run.plan.epochs}; lower optim.lr"
            )
        return found

    def _watched_scores(self, run: Run) -> dict[str, float]:
        """Return accuracy, loss and the study's metric on each watched data set, of a model whose training is complete."""
        scores: dict[str, float] = {}
        for name, split in self._watched.items():
            scores |= self._scores(f"watch/{name}", split.targets, self._kept(Inputs(split, 0, self._normalise)))
        return scores

    def _scores(self, prefix: str, labels: Tensor, kept: Tensor) -> dict[str, float]:
        """Return the scores of the task, and the metric that the study adds to them."""
        found, name = self.task.scores(kept, labels), self._own_metric
        if name is not None and name not in found:
            found[name] = quality.measure(name, *self.task.answers(kept, labels))
        return {f"{prefix}/{key}": value for key, value in found.items()}

    def _train(self, run: Run) -> tuple[float, int]:
        train, recipe, model = self._inputs("train"), run.plan.recipe, self.model
        labels = train.split.labels
        batch = min(recipe.batch_size, len(labels))
        n_steps = len(labels) // batch
        order = torch.randperm(len(labels))[: n_steps * batch].to(self.device).view(n_steps, batch)
        losses: list[Tensor] = []
        model.train()
        backbones.hold_statistics(model)
        if recipe.prefix_cuts is not None:
            hold_frozen_blocks(model)
        forward, weights = run.forward(train.cut), self._class_weights(run)
        for i, index in enumerate(order):
            raise_if_stopped(run.plan.folder)
            step = run.epoch * n_steps + i
            parts = map(train.take, index.tensor_split(min(recipe.accumulate, batch)))
            loss = backward(model, parts, batch, recipe, forward, task=self.task, weights=weights)
            if recipe.clip_norm is not None:
                nn.utils.clip_grad_norm_(run.trained.values(), recipe.clip_norm)
            if recipe.schedule == "step":
                rate = learning_rate(step, run.plan.epochs * n_steps, recipe)
            else:
                rate = learning_rate_of_epoch(run.epoch, run.plan.epochs, recipe)
            for group in run.optimiser.param_groups:
                group["lr"] = rate
            run.optimiser.step()
            run.optimiser.zero_grad()
            losses.append(loss)
        values = torch.stack(losses).tolist()
        for step, value in enumerate(values, start=run.epoch * n_steps + 1):
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"the training loss is not finite ({value}) at step {step} of {run.plan.epochs * n_steps} "
                    f"(epoch {run.epoch + 1} of {run.plan.epochs}); lower optim.lr"
                )
        return sum(values) / len(values), n_steps * batch

    def _class_weights(self, run: Run) -> Tensor | None:
        if run.plan.recipe.class_weights == "none":
            return None
        try:
            return self.task.class_weights(self._splits["train"].labels, self.n_classes)
        except ValueError as error:
            raise ValueError(f"recipe.class_weights: {error}") from error

    def _gradients(self, run: Run) -> None:
        train, recipe, weights = self._inputs("train"), run.plan.recipe, self._class_weights(run)
        labels, forward = train.split.targets, after(self.model, train.cut)
        for inputs, wanted in zip(train.batches(recipe.batch_size), torch.split(labels, recipe.batch_size), strict=True):
            raise_if_stopped(run.plan.folder)
            found = logits(self.model, inputs, recipe.precision, forward)
            loss = self.task.loss_in_split(found, wanted, len(labels), recipe.label_smoothing, weights)
            loss.backward()  # type: ignore[no-untyped-call]

    def evaluate(self, split: str) -> dict[str, float]:
        """Return the scores of the current model on a loaded split that every epoch reports."""
        return self.task.scores(self.kept(split), self._splits[split].targets)

    def kept(self, split: str) -> Tensor:
        """Return what the task keeps of the current model's logits for all images of a loaded split, in order."""
        return self._kept(self._inputs(split))

    def _kept(self, inputs: Inputs) -> Tensor:
        self.model.eval()
        forward, kept, size = after(self.model, inputs.cut), [], self.task.eval_batch
        with torch.inference_mode():
            for batch, labels in zip(inputs.batches(size), torch.split(inputs.split.targets, size), strict=True):
                self._check()
                kept.append(self.task.keep(logits(self.model, batch, self._precision, forward), labels))
            return torch.cat(kept)

    def test(self) -> tuple[dict[str, float], NDArray[np.bool_] | None, quality.Answers | None]:
        """Test the current model on the test split.

        Returns:
            The metrics under `test/`; for each image, whether the model is right (n,), None if an answer is more than right or
            wrong; and its answers, if the study is judged by another metric than accuracy.
        """
        kept, labels = self.kept("test"), self._splits["test"].targets
        answers = None if self._own_metric is None else self.task.answers(kept, labels)
        return self._scores("test", labels, kept), self.task.correct(kept, labels), answers

    @property
    def _own_metric(self) -> str | None:
        """The metric by which the study is judged; None if it is accuracy."""
        name = self._running().plan.recipe.metric
        return None if name == "top1" else name

    def _inputs(self, split: str) -> Inputs:
        """Return what the trained part of the model takes of a loaded split; the model is left in eval mode."""
        return self._prefixes.inputs(split, self._splits[split], self._precision, self._check)

    def _check(self) -> None:
        raise_if_stopped(self._run.plan.folder if self._run is not None else None)

    @property
    def _precision(self) -> str:
        return "float32" if self._run is None else self._run.plan.recipe.precision

    def finish(self) -> None:
        """See `trainables.protocol.Trainable.finish`."""
        if self._run is not None:
            self._run.leave()
            self._run = None
        self._prefixes.leave()
        if adaptation(self.model) is not None:
            remove(self.model)
        self.task.remove_head(self.model)
        self.model.eval()
        for parameter, flag in zip(self.model.parameters(), self._requires_grad, strict=True):
            parameter.requires_grad_(flag)
            parameter.grad = None
        now = backbones.fingerprint(self.model)
        if changed := sorted(name for name in now.keys() | self._pristine.keys() if now.get(name) != self._pristine.get(name)):
            raise RuntimeError(
                f"a trial must leave the frozen backbone unchanged; changed: {', '.join(changed[:5])}; replace this worker"
            )

    def _running(self) -> Run:
        if self._run is None:
            raise RuntimeError("no trial is running; start one")
        return self._run
