"""torch's compiler: nothing imports it before something is compiled, and nothing is computed otherwise without it."""

import subprocess
import sys

import pytest
import torch

from trainables.recipe.optimisers import SGD, AdamW

TRAINS = """
import sys
from trainables import make, measure
from trainables.workers import preload

config = {"method": "lora", "lora.rank": 2, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "all", "lora.dropout": 0.0}
config |= {"optim.lr": 1e-3, "optim.weight_decay": 1e-4, "optim.batch_size": 32, "recipe.drop_path": 0.1}
backbone, data = {"name": "vit_glyphs"}, {"kind": "digits"}
sizes = measure(backbone, data)
sizes.count(config)
trial = make(backbone, data, {"n_threads": 1})
trial.start(config, seed=0, epochs=1, folder=None)
trial.step()
assert "sympy" not in sys.modules
sizes.gflops(config)
sizes.training_bytes(config, 32)
from trainables.costs.work import EpochWork
EpochWork(backbone, data, {}).epoch(config)
assert not {"torch._dynamo", "torch._inductor"} & sys.modules.keys()

import torch, torchvision
image, box = torch.arange(16.0).reshape(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 3.0, 3.0]])]
assert torchvision.ops.roi_align(image, box, 1).shape == (1, 1, 1, 1)
from timm.layers.typing import disable_compiler
assert disable_compiler(lambda: 7)() == 7  # imports the compiler
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)) == 2
"""


def test_a_process_that_trains_does_not_import_the_compiler_and_may_do_so_later() -> None:
    subprocess.run([sys.executable, "-c", TRAINS], check=True)


@pytest.mark.parametrize(
    ("own", "usual", "knobs"),
    [(AdamW, torch.optim.AdamW, {"lr": 1e-2}), (SGD, torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9})],
)
def test_the_optimisers_compute_what_those_of_torch_compute(own: type, usual: type, knobs: dict[str, float]) -> None:
    first, second = torch.nn.Parameter(torch.ones(5, 3)), torch.nn.Parameter(torch.ones(5, 3))
    ours, theirs = own([first], **knobs, fused=True), usual([second], **knobs, fused=True)
    for step in range(6):
        for parameter, optimiser in ((first, ours), (second, theirs)):
            optimiser.zero_grad()
            (parameter * torch.linspace(-1, 1, 15).reshape(5, 3)).pow(2).sum().backward()
            optimiser.step()
        assert first.equal(second)
        if step == 2:
            saved = ours.state_dict()
            ours = own([first], **knobs, fused=True)
            ours.load_state_dict(saved)
    assert not first.equal(torch.ones(5, 3))
