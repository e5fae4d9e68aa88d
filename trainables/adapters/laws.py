"""The laws that every adapter method keeps, as functions: `paretune check-method` and the tests of our own methods call them.

A law gets a `Bench` (small real models, all alike) and a method. It returns the observation in words, or raises `Broken` with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from trainables.adapters import (
    Layer,
    Method,
    adapt,
    load_trainable_state,
    merge,
    remove,
    trainable_parameters,
    trainable_state,
    unmergeable,
)

N_STEPS = 3  # an adapter of two factors, one of them zero, moves the other in the second step
TOLERANCE = 1e-9  # relative, in double precision


class Broken(Exception):
    """The signal that a law is broken; the message is the observation."""


@dataclass(frozen=True)
class Bench:
    """Models and images with which laws are checked, in double precision.

    Attributes:
        fresh: Function that builds the pretrained model with a head, each time the same.
        images: Batch of images that it takes.
        tolerance: Largest relative difference of values that are equal.
    """

    fresh: Callable[[], nn.Module]
    images: Tensor
    tolerance: float = TOLERANCE

    def adapted(self, method: Method, *, moved: bool = True) -> nn.Module:
        """Return a new adapted model.

        Args:
            method: The method.
            moved: True for trainables away from their initial values, and without those that training drops.
        """
        model = self.fresh()
        adapt(model, method, generator=torch.Generator().manual_seed(3))
        if moved:
            generator = torch.Generator().manual_seed(4)
            with torch.no_grad():
                for _, parameter in trainable_parameters(model):
                    parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
            method.shrink_to_final_size(model)
        return model.eval()


@dataclass(frozen=True)
class Verdict:
    """The answer of one law.

    Attributes:
        law: Name of the law.
        kept: True if the method keeps it.
        seen: Observation, in words.
    """

    law: str
    kept: bool
    seen: str


def starts_pretrained(bench: Bench, method: Method) -> str:
    """Require that a newly adapted model computes the function of the pretrained one, where the method claims it."""
    with torch.no_grad():
        difference = _difference(bench.adapted(method, moved=False)(bench.images), bench.fresh().eval()(bench.images))
    if not method.starts_pretrained:
        return f"no claim (starts_pretrained is False); outputs differ by {difference:.1e}"
    if difference > bench.tolerance:
        raise Broken(f"outputs differ by {difference:.1e}; start at zero, or claim nothing: starts_pretrained = False")
    return f"outputs differ by {difference:.1e}"


def counts_on_the_meta_device(bench: Bench, method: Method) -> str:
    """Require that the number of trainables on the meta device, from which sizes are known, is that of the real model."""
    empty = bench.fresh().to("meta")
    try:
        adapt(empty, method)
        method.shrink_to_final_size(empty)
    except (NotImplementedError, RuntimeError) as error:
        raise Broken(
            f"it reads values, which do not exist there: {_first_line(error)}; use `like.is_meta`, as `uniform` does"
        ) from error
    counted, real = _n_trained(empty), _n_trained(bench.adapted(method))
    if counted != real:
        raise Broken(f"{counted:,} on the meta device, {real:,} in the model")
    off = sorted(name for name, parameter in trainable_parameters(empty) if not parameter.is_meta)
    if off:
        raise Broken(f"{off[0]} is on {empty.get_parameter(off[0]).device}; create it like the adapted weight")
    return f"{counted:,} trainables with the head"


def reaches_every_trainable(bench: Bench, method: Method) -> str:
    """Require that every trainable gets a gradient that is not zero within three steps, and that nothing else changes."""
    model = bench.adapted(method, moved=False).train()
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    names = {name for name, _ in trainable_parameters(model)}
    optimiser = torch.optim.AdamW([p for _, p in trainable_parameters(model)], lr=1e-2)
    labels, seen = torch.arange(len(bench.images)), set[str]()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(6)  # of the dropout
        for _ in range(N_STEPS):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(bench.images), labels).backward()  # type: ignore[no-untyped-call]
            reached = {name: p.grad for name, p in trainable_parameters(model) if p.grad is not None}
            if wild := sorted(name for name, gradient in reached.items() if not gradient.isfinite().all()):
                raise Broken(f"the gradient of {wild[0]} is not finite")
            seen |= {name for name, gradient in reached.items() if gradient.abs().max() > 0}
            optimiser.step()
    if deaf := sorted(names - seen):
        raise Broken(f"no gradient reaches {', '.join(deaf[:3])}{' ...' * (len(deaf) > 3)} ({len(deaf)} of {len(names)})")
    now = dict(model.named_parameters()) | dict(model.named_buffers())
    if moved := sorted(name for name, before in (frozen | buffers).items() if not torch.equal(now[name], before)):
        raise Broken(f"{moved[0]} is frozen, and has changed")
    return f"{len(names)} tensors, in {N_STEPS} steps"


def merges_into_the_weights(bench: Bench, method: Method) -> str:
    """Require that the merged model is plain timm with the same function, or that the method says why it cannot be merged."""
    model = bench.adapted(method)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        expected = model(bench.images)
        if (reason := unmergeable(model)) is not None:
            try:
                merge(model)
            except ValueError:
                if all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items()):
                    return f"not merged: {reason}"
            raise Broken("a merge that is refused changes the model")
        try:
            merge(model)
        except NotImplementedError as error:
            raise Broken("a layer has no adapted_weight; write it, or set `unmergeable` to the reason") from error
        difference = _difference(model(bench.images), expected)
    if difference > bench.tolerance:
        raise Broken(f"outputs differ by {difference:.1e}: adapted_weight is not the weight of forward")
    if any(isinstance(module, Layer) for module in model.modules()):
        raise Broken("a layer is left in the merged model")
    return f"outputs differ by {difference:.1e}"


def leaves_nothing_behind(bench: Bench, method: Method) -> str:
    """Require that the model without its adapter is the pretrained one, bit for bit except for the head, adaptable again."""
    plain, model = bench.fresh(), bench.adapted(method)
    with torch.no_grad():
        model(bench.images)
    remove(model)
    before, after = plain.state_dict(), model.state_dict()
    if other := sorted(before.keys() ^ after.keys()):
        raise Broken(f"{other[0]} is in only one of the two models")
    head = {id(p) for p in cast(Any, model).get_classifier().parameters()}
    own = {name for name, p in model.named_parameters() if id(p) not in head} | {name for name, _ in model.named_buffers()}
    if changed := sorted(name for name in own & before.keys() if not torch.equal(before[name], after[name])):
        raise Broken(f"{changed[0]} has changed; build and forward must not write into the frozen model")
    if types := sorted(_types(plain).items() ^ _types(model).items()):
        raise Broken(f"the module {types[0][0] or 'at the root'} is another one")
    if hooked := sorted(_hooks(plain).items() ^ _hooks(model).items()):
        raise Broken(f"{hooked[0][0] or 'the model'} keeps a hook")
    if frozen := sorted(name for name, p in model.named_parameters() if not p.requires_grad):
        raise Broken(f"{frozen[0]} stays frozen")
    adapt(model, method)
    return f"{len(own)} tensors, bit for bit"


def survives_a_checkpoint(bench: Bench, method: Method) -> str:
    """Require that a checkpoint holds the trainables and nothing else, and that a new model with it computes the same."""
    model = bench.adapted(method)
    try:
        state = safetensors.torch.load(safetensors.torch.save(trainable_state(model)))
    except (RuntimeError, ValueError) as error:
        raise Broken(f"it cannot be saved: {_first_line(error)}") from error
    held, trained = sum(tensor.numel() for tensor in state.values()), _n_trained(model)
    if held != trained:
        raise Broken(f"the checkpoint holds {held:,} numbers, and {trained:,} are trained")
    restored = bench.fresh()
    adapt(restored, method, generator=torch.Generator().manual_seed(5))  # another trial's: values that are not saved differ
    try:
        load_trainable_state(restored, state)
    except ValueError as error:
        raise Broken(f"it cannot be loaded: {_first_line(error)}") from error
    with torch.no_grad():
        found, expected = restored.eval()(bench.images), model(bench.images)
    if not torch.equal(found, expected):
        raise Broken(f"outputs differ by {_difference(found, expected):.1e}: something that is not trained depends on the seed")
    return f"{len(state)} tensors, {held:,} numbers"


LAWS: dict[str, Callable[[Bench, Method], str]] = {
    "starts as the pretrained model": starts_pretrained,
    "counts on the meta device": counts_on_the_meta_device,
    "gradients reach every trainable": reaches_every_trainable,
    "merge equals forward": merges_into_the_weights,
    "nothing is left behind": leaves_nothing_behind,
    "checkpoint round trip": survives_a_checkpoint,
}


def check(bench: Bench, method: Method) -> Iterator[Verdict]:
    """Yield the verdict of each law.

    Raises:
        ValueError: If the method does not fit the model.
    """
    try:
        adapt(bench.fresh(), method)
    except ValueError:
        raise
    except Exception as error:
        yield Verdict("builds its layers", False, f"{type(error).__name__}: {_first_line(error)}")
        return
    for name, law in LAWS.items():
        try:
            yield Verdict(name, True, law(bench, method))
        except Broken as broken:
            yield Verdict(name, False, str(broken))
        except Exception as error:
            yield Verdict(name, False, f"{type(error).__name__}: {_first_line(error)}")


def _difference(a: Tensor, b: Tensor) -> float:
    """Return the largest difference relative to the largest value; infinite unless both are finite."""
    if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-300))


def _n_trained(model: nn.Module) -> int:
    return sum(parameter.numel() for _, parameter in trainable_parameters(model))


def _types(model: nn.Module) -> dict[str, str]:
    return {path: type(module).__qualname__ for path, module in model.named_modules()}


def _hooks(model: nn.Module) -> dict[str, int]:
    return {path: len(module._forward_hooks) + len(module._forward_pre_hooks) for path, module in model.named_modules()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:200]
