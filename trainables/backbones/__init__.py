"""Pretrained Vision Transformers, built with timm, with weights from local files. Importing it registers the packaged ones."""

from trainables.backbones.factory import (
    HEAD_INITS,
    OURS,
    RANDOM,
    WEIGHTS,
    Preprocessing,
    classifier,
    create,
    describe_normalisation,
    digest,
    digest_of,
    fingerprint,
    image_size,
    preprocessing,
    refuse_changed,
    remove_head,
    set_head,
)
from trainables.backbones.statistics import hold_statistics

__all__ = [
    "HEAD_INITS",
    "OURS",
    "RANDOM",
    "WEIGHTS",
    "Preprocessing",
    "classifier",
    "create",
    "describe_normalisation",
    "digest",
    "digest_of",
    "fingerprint",
    "hold_statistics",
    "image_size",
    "preprocessing",
    "refuse_changed",
    "remove_head",
    "set_head",
]
