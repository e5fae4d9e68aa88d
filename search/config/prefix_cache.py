"""The places in the backbone where a study keeps the tokens of its images, so that no trial computes them again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from optuna.distributions import CategoricalDistribution

from search.config.study_file import ANCHOR, StudyFile
from search.costs import Sizes
from search.storage.facts import PrefixFact
from spaces import Config

AUTO_BYTES: Final = 2 * 2**30  # 1,000 images of ViT-B/16 take 1.2 GB at the places of the packaged spaces


def prefix_fact(file: StudyFile, sizes: Sizes) -> PrefixFact:
    """Choose the places: those in front of the blocks that some configuration adapts, the deepest first, as far as they fit.

    A trial uses the deepest of them that it can. So the study file says what a trial computes, not what a worker has on its disk.

    Args:
        file: Study file.
        sizes: Sizes of its configurations.
    """
    asked = file.resources.prefix_cache
    most = {"auto": AUTO_BYTES, "off": 0}[asked] if isinstance(asked, str) else int(asked)
    found: dict[int, int] = {}
    for config in _choices_of_blocks(file) if most else ():
        with suppress(ValueError):  # it does not fit the backbone
            cut, n_bytes = sizes.frozen(config)
            found[cut] = n_bytes
    kept: dict[int, int] = {}
    for cut in sorted(found.keys() - {0}, reverse=True):
        if sum(kept.values()) + found[cut] <= most:
            kept[cut] = found[cut]
    return PrefixFact(cuts=tuple(sorted(kept)), most_bytes=most, cut_bytes=max(kept.values(), default=0))


def _choices_of_blocks(file: StudyFile) -> Iterator[Config]:
    """Yield the default of each method with each choice of the blocks that it adapts."""
    space = file.model_copy(update={"methods": tuple(dict.fromkeys((ANCHOR, *file.methods)))}).joint_space()
    for method in space.methods:
        default = space.default(method)
        yield default
        layers = space.distributions(method).get(key := f"{method}.layers")
        if isinstance(layers, CategoricalDistribution):
            yield from (default | {key: choice} for choice in layers.choices)
