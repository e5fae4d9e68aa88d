"""The output of the frozen part of the backbone in front of everything that a trial trains, computed once and not in every epoch.

A study names the cuts (`trainables.recipe.cut`) at which the tokens of its training and validation images are kept. A trial takes
the deepest of them that has nothing in front of it that is trained. So the study says whether a trial uses it, never what a worker
did before.

The tokens of an image must not depend on who computed them either. A split passes through the backbone in order, in batches of
`EVAL_BATCH`, in eval mode. All cuts in front of a trial's adapter take one pass; in front of head-only, which a study trains first,
are all of the study. The result is one file for each, which all workers map. Where a file cannot be written or read, a worker holds
the tokens in memory until its trial ends: they have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.costs.memory import PREFIX_BYTES
from trainables.data.batches import Normaliser, Split, rows_of
from trainables.recipe.cut import before, bytes_at, deepest_cut, kept_at, shape_at
from trainables.tasks.base import EVAL_BATCH
from trainables.training import prefix_file

Check = Callable[[], None]  # raises Stopped if the trial is to stop


@dataclass(frozen=True)
class Inputs:
    """The inputs of the rest of the forward pass from one split: its normalised images, or their tokens at a cut.

    Attributes:
        split: The split.
        cut: The cut; 0 for images.
        normalise: Normalisation of images.
        tokens: Tokens of all images, followed by those of the mirrored ones if training mirrors; None at cut 0.
    """

    split: Split
    cut: int
    normalise: Normaliser
    tokens: Tensor | None = None

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return a training batch and its labels, with the random numbers of `Split.take`."""
        if self.tokens is None:
            images, labels = self.split.pairs(index)
            return self.normalise(images), labels
        rows = self.split.draw(index)
        return rows_of(self.tokens, rows, index.device), self.split.labels_of(rows)

    def batches(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, without augmentation, in batches of at most `size`."""
        if self.tokens is None:
            yield from map(self.normalise, self.split.batches(size))
            return
        for first in range(0, n := len(self.split), size):
            yield rows_of(self.tokens, slice(first, min(first + size, n)), self.split.labels.device)


class Prefixes:
    """The tokens that a worker keeps.

    Args:
        model: Backbone.
        normalise: Normalisation of images.
        backbone: Name, weights, input size and normalisation of the backbone, on which its output depends, as JSON values.
        cuts: Cuts that the study keeps. None for a study that began before there were any: it keeps no training images.
        most_bytes: Most bytes of such files on this machine.
    """

    def __init__(
        self, model: nn.Module, normalise: Normaliser, backbone: Mapping[str, Any], cuts: Sequence[int] | None, most_bytes: int
    ) -> None:
        self._model, self._normalise, self._backbone, self._cuts, self._most_bytes = model, normalise, backbone, cuts, most_bytes
        self._kept: dict[tuple[str, int, str], Tensor] = {}
        self._of_this_trial: set[tuple[str, int, str]] = set()

    def forget(self) -> None:
        """Drop everything, because the splits are others."""
        self._kept.clear()
        self._of_this_trial.clear()

    def leave(self) -> None:
        """Drop what only the memory of this worker holds, at the end of a trial."""
        for key in self._of_this_trial:
            del self._kept[key]
        self._of_this_trial.clear()

    def inputs(self, name: str, split: Split, precision: str, check: Check) -> Inputs:
        """Return the inputs of the model's trained part; tokens are computed if they are not kept yet. Leaves it in eval mode.

        Args:
            name: Name of the split: "train", "validation" or "test".
            split: The split.
            precision: Precision of the trial.
            check: Called before each batch.
        """
        self._model.eval()
        cut, is_shared = kept_at(self._model, self._cuts, name, len(split), split.augment, most_bytes=PREFIX_BYTES)
        if cut == 0:
            return Inputs(split, 0, self._normalise)
        if (key := (name, cut, precision)) not in self._kept:
            found = self._from_file(split, cut, precision, check) if is_shared else None
            is_mapped = found is not None
            self._kept[key] = self._computed(split, cut, precision, check) if found is None else found
            if is_shared and not is_mapped:
                self._of_this_trial.add(key)
        tokens = self._kept[key]
        if tokens.nbytes <= PREFIX_BYTES:  # a copy on a GPU lives as long as these inputs
            tokens = tokens.to(split.labels.device)
        return Inputs(split, cut, self._normalise, tokens)

    def _batches(self, split: Split, cuts: Sequence[int], precision: str, check: Check) -> Iterator[list[Tensor]]:
        """Yield the tokens of all images, and of all mirrored ones if training mirrors, batch by batch, at each of the cuts."""
        for mirrored in (False, True) if split.augment == "flip" else (False,):
            for images in split.batches(EVAL_BATCH, mirrored=mirrored):
                check()
                with torch.no_grad():
                    yield before(self._model, self._normalise(images), cuts, precision)

    def _computed(self, split: Split, cut: int, precision: str, check: Check) -> Tensor:
        n_rows, whole, done = _n_rows(split), None, 0
        for (tokens,) in self._batches(split, [cut], precision, check):
            if whole is None:
                whole = tokens.new_empty(n_rows, *tokens.shape[1:], device="cpu" if self._is_large(n_rows, cut) else tokens.device)
            whole[done : done + len(tokens)] = tokens
            done += len(tokens)
        assert whole is not None  # noqa: S101 - no split is empty
        return whole

    def _is_large(self, n_rows: int, cut: int) -> bool:
        return n_rows * bytes_at(self._model, cut) > PREFIX_BYTES

    def _from_file(self, split: Split, cut: int, precision: str, check: Check) -> Tensor | None:
        """Map the file of a cut, which is made with those of the other cuts if it is missing; None if that is impossible."""
        if split.digest is None or self._cuts is None:
            return None
        about = {
            **self._backbone,
            "images": split.digest,
            "n_images": len(split),
            "mirrored": split.augment == "flip",
            "precision": precision,
            "batch": EVAL_BATCH,
            "machine": prefix_file.machine(split.labels.device),
        }
        frozen = [at for at in self._cuts if at <= deepest_cut(self._model)]  # at the others they pass through this trial's adapter
        files = {at: prefix_file.File({**about, "cut": at}, (_n_rows(split), *shape_at(self._model, at))) for at in frozen}
        if (found := files[cut].read()) is not None:
            return found
        is_made = prefix_file.make(
            files, lambda cuts: self._batches(split, cuts, precision, check), check, most_bytes=self._most_bytes
        )
        return files[cut].read() if is_made else None


def _n_rows(split: Split) -> int:
    return len(split) * (2 if split.augment == "flip" else 1)
