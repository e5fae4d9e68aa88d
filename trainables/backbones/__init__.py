"""Pretrained Vision Transformers: made with timm, their weights read from local files. Importing it registers `vit_glyphs`."""

from trainables.backbones.factory import RANDOM, WEIGHTS, Preprocessing, create, fingerprint, preprocessing, remove_head, set_head

__all__ = ["RANDOM", "WEIGHTS", "Preprocessing", "create", "fingerprint", "preprocessing", "remove_head", "set_head"]
