"""Pretrained Vision Transformers, built with timm, with weights from local files. Importing it registers `vit_glyphs`."""

from trainables.backbones.factory import RANDOM, WEIGHTS, Preprocessing, create, fingerprint, preprocessing, remove_head, set_head

__all__ = ["RANDOM", "WEIGHTS", "Preprocessing", "create", "fingerprint", "preprocessing", "remove_head", "set_head"]
