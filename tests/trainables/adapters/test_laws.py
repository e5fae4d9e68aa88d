"""The laws find what breaks them: each is kept by the example, and broken once."""

from __future__ import annotations

import re

import pytest

from trainables.adapters.laws import LAWS, check
from trainables.adapters.own import method_class
from trainables.method_files import MethodFile

from ...own_methods import GAIN, changed
from .adapter_laws import AVERAGE, TOKEN, Backbone, bench

FORWARD = "    def adapted_weight(self) -> Tensor:"
BUILD = "    def build(self"
GAINS = "self.gain = zeros(base.out_features, like=base.weight)"
BROKEN = {
    "starts as the pretrained model": [
        ((GAINS, f"{GAINS}\n        nn.init.ones_(self.gain)"), r"outputs differ by \d.*starts_pretrained = False"),
        ((GAINS, f"{GAINS}\n        nn.init.constant_(self.gain, float('nan'))"), "outputs differ by inf"),
    ],
    "counts on the meta device": [
        ((GAINS, "self.gain = nn.Parameter(torch.zeros(1 if base.weight.is_meta else base.out_features).to(base.weight))"),
         r"\d+ on the meta device, \d+ in the model"),
        ((GAINS, "self.gain = nn.Parameter(torch.zeros(base.out_features))"), r"gain is on cpu"),
        ((GAINS, f"{GAINS}\n        base.weight.sum().item()"), "it reads values"),
    ],
    "gradients reach every trainable": [
        ((GAINS, f"{GAINS}\n        self.idle = zeros(3, like=base.weight)"), r"no gradient reaches blocks.*idle"),
        ((FORWARD, "    def forward(self, x):\n        self.base.weight.data += 1e-3 * self.training\n"
          f"        return super().forward(x)\n\n{FORWARD}"), "is frozen, and has changed"),
    ],
    "merge equals forward": [
        ((FORWARD, f"    def forward(self, x):\n        return super().forward(x) + self.gain.mean()\n\n{FORWARD}"),
         "adapted_weight is not the weight of forward"),
        ((FORWARD, "    def forward(self, x):\n        return self.base(x) * (1 + self.gain)\n\n    def other(self) -> Tensor:"),
         "has no adapted_weight"),
    ],
    "nothing is left behind": [
        ((GAINS, f"{GAINS}\n        base.extra = nn.Identity()"), "extra is another one"),
        ((GAINS, f"{GAINS}\n        base.register_forward_hook(lambda *_: None)"), "keeps a hook"),
        ((GAINS, f"{GAINS}\n        base.bias = None"), "is in only one of the two models"),
    ],
    "checkpoint round trip": [
        (("self.scale = scale", "self.scale = scale * torch.randn(()).item()"), "depends on the seed"),
    ],
}  # fmt: skip


def test_every_law_is_broken_once() -> None:
    assert BROKEN.keys() == LAWS.keys()


@pytest.mark.parametrize("backbone", [TOKEN, AVERAGE], ids=lambda backbone: backbone.name)
def test_the_example_keeps_every_law(backbone: Backbone) -> None:
    verdicts = list(check(bench(backbone), method_class(MethodFile("/gain.py", GAIN))()))
    assert [verdict.law for verdict in verdicts] == list(LAWS)
    assert [verdict for verdict in verdicts if not verdict.kept] == []


@pytest.mark.parametrize(
    ("law", "change", "seen"), [(law, change, seen) for law, cases in BROKEN.items() for change, seen in cases]
)
def test_a_broken_law_is_found_with_what_was_seen(law: str, change: tuple[str, str], seen: str) -> None:
    method = method_class(MethodFile("/gain.py", changed(change)))()
    [verdict] = [verdict for verdict in check(bench(TOKEN), method) if verdict.law == law]
    assert not verdict.kept
    assert re.search(seen, verdict.seen), verdict.seen


def test_a_method_may_claim_nothing_about_its_start_and_say_why_it_is_not_merged() -> None:
    text = changed(
        (GAINS, f"{GAINS}\n        nn.init.ones_(self.gain)"),
        ('    scale: float = 1.0', '    starts_pretrained: ClassVar[bool] = False\n    scale: float = 1.0'),
        ("class GainLayer(Layer):\n", 'class GainLayer(Layer):\n    unmergeable = "it is a toy"\n\n'),
    )  # fmt: skip
    verdicts = {verdict.law: verdict for verdict in check(bench(TOKEN), method_class(MethodFile("/gain.py", text))())}
    assert all(verdict.kept for verdict in verdicts.values())
    assert "no claim" in verdicts["starts as the pretrained model"].seen
    assert "it is a toy" in verdicts["merge equals forward"].seen


def test_a_method_that_cannot_be_built_is_one_verdict_and_one_that_does_not_fit_is_a_value_error() -> None:
    text = changed(("block.attn.qkv, self.scale", "block.attention.qkv, self.scale"))
    [verdict] = check(bench(TOKEN), method_class(MethodFile("/gain.py", text))())
    assert (verdict.law, verdict.kept) == ("builds its layers", False)
    assert "AttributeError" in verdict.seen
    with pytest.raises(ValueError, match="at most the backbone's 4 blocks"):
        list(check(bench(TOKEN), method_class(MethodFile("/gain.py", GAIN))(layers="last-9")))
