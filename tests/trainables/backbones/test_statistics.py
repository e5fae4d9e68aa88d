"""Frozen means frozen: what a backbone computes besides its weights stays as it was pretrained."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from timm.models import is_model_in_modules
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainables.adapters import supported_blocks
from trainables.backbones import create, fingerprint, hold_statistics
from trainables.training.trial import AdapterWorker

from .. import small_models
from ..short import shortened

FAMILIES = ("vision_transformer", "vision_transformer_hybrid", "eva", "beit", "swin_transformer", "deit")
CONSTANT = {  # kinds of modules with buffers that no forward pass changes
    "Attention",
    "WindowAttention",
    "SwinTransformerBlock",
    "RelPosBias",
    "EvaAttention",
    "Eva",
    "RotaryEmbeddingCat",
    "RotaryEmbeddingDinoV3",
    "VisionTransformer",
}


@pytest.mark.slow
def test_every_module_with_a_state_in_every_supported_model_is_known() -> None:
    """All models of timm, of one block, on the meta device; of those that differ in the sizes of image, patch and window one."""
    stateful, n_models = {}, 0
    names = {re.sub(r"(?<=patch)\d+|(?<=window)\d+|_\d{3}$", "", name): name for name in timm.list_models()}
    for name in names.values():
        if not is_model_in_modules(name, FAMILIES):
            continue
        depth = {"depths": (1, 1, 1, 1)} if "swin" in name else {"depth": 1}
        try:
            with torch.device("meta"):
                model = timm.create_model(name, num_classes=0, **depth)
            supported_blocks(model)
        except (ValueError, TypeError, AssertionError, RuntimeError, NotImplementedError):
            continue
        n_models += 1
        for module in model.modules():
            if next(module.buffers(recurse=False), None) is not None:
                stateful.setdefault(type(module), name)
    assert n_models > 120
    unknown = {kind.__name__: name for kind, name in stateful.items() if not issubclass(kind, _NormBase)}
    assert unknown.keys() <= CONSTANT, unknown
    assert any(issubclass(kind, _NormBase) for kind in stateful)  # the models that this is about


@pytest.mark.slow
def test_batch_norms_of_a_stem_are_held_while_adapters_train() -> None:
    model = create(small_models.small_hybrid.__name__, "random")
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    assert norms
    before = fingerprint(model)
    model.train()
    hold_statistics(model)
    model(torch.randn(2, 3, 32, 32))
    assert fingerprint(model) == before
    assert all(not norm.training for norm in norms)
    assert model.training


@pytest.mark.slow
def test_a_worker_gives_such_a_backbone_back_unchanged() -> None:
    backbone = {"name": small_models.small_hybrid.__name__, "weights": "random"}
    worker = shortened(AdapterWorker(backbone, {"kind": "digits"}, {"n_threads": 1}), n_train=8, n_validation=8)
    for method in ("lora", "full"):
        worker.start({"method": method, "optim.batch_size": 4}, seed=0, epochs=1, folder=None)
        worker.step()
        worker.finish()  # raises if a frozen weight or statistic has changed
    assert isinstance(next(m for m in worker.model.modules() if isinstance(m, _NormBase)), nn.Module)
