"""Frozen means frozen: what a backbone computes besides its weights stays as it was pretrained."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import is_model_in_modules
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from trainables.adapters import supported_blocks
from trainables.backbones import create, fingerprint, hold_statistics
from trainables.data import Split
from trainables.training.trial import AdapterWorker

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
    """All models of timm, of one block, on the meta device."""
    stateful, n_models = {}, 0
    for name in timm.list_models():
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
    assert n_models > 200
    unknown = {kind.__name__: name for kind, name in stateful.items() if not issubclass(kind, _NormBase)}
    assert unknown.keys() <= CONSTANT, unknown
    assert any(issubclass(kind, _NormBase) for kind in stateful)  # the models that this is about


@pytest.mark.slow
def test_batch_norms_of_a_stem_are_held_while_adapters_train() -> None:
    backbone = {"name": "vit_base_mci_224", "weights": "random", "img_size": 64}
    model = create(backbone["name"], "random", 64)
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    assert norms
    before = fingerprint(model)
    model.train()
    hold_statistics(model)
    model(torch.randn(2, 3, 64, 64))
    assert fingerprint(model) == before
    assert all(not norm.training for norm in norms)
    assert model.training


@pytest.mark.slow
def test_a_worker_gives_such_a_backbone_back_unchanged() -> None:
    backbone = {"name": "vit_small_resnet26d_224", "weights": "random", "img_size": 64}
    worker = AdapterWorker(backbone, {"kind": "digits"}, {"n_threads": 1})
    few = {name: Split(split.images[:8], split.labels[:8], split.size) for name, split in worker._splits.items()}
    worker._splits = few
    for method in ("lora", "full"):
        worker.start({"method": method, "optim.batch_size": 4}, seed=0, epochs=1, folder=None)
        worker.step()
        worker.finish()  # raises if a frozen weight or statistic has changed
    assert isinstance(next(m for m in worker.model.modules() if isinstance(m, _NormBase)), nn.Module)
