"""The update of a merged adapter as one of low rank: LoRA's form, which PEFT and many other programs read.

The update of each linear, D = W' - W, is cut off after its r largest singular values, the best approximation of rank r:

    W' ~ W + B A        A = V_r^T (r, in), B = D V_r (out, r)        V_r the first right singular vectors of D

They come from the eigenvectors of D^T D (of D D^T for a wide D) in float64. A change of a bias is kept as it is, and a module of
another kind that has changed (a norm, a convolution) is taken whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

_ZERO = 1e-14  # share of the largest eigenvalue, a squared singular value, below which one is rounding


@dataclass(frozen=True)
class LinearUpdate:
    """The update of a linear, D = B A at full rank, with its singular values in falling order.

    Attributes:
        a: Tensor (rank, in).
        b: Tensor (out, rank).
        bias: Change of the bias, (out,); None if it is the same.
    """

    a: Tensor
    b: Tensor
    bias: Tensor | None

    def at(self, rank: int) -> LinearUpdate:
        """Return the best approximation of a rank, with at least one column, which may be zero."""
        if not len(self.a):
            return LinearUpdate(self.a.new_zeros(1, self.a.shape[1]), self.b.new_zeros(len(self.b), 1), self.bias)
        return LinearUpdate(self.a[:rank], self.b[:, :rank], self.bias)


@dataclass(frozen=True)
class Update:
    """Everything that an adapter has changed in a plain model.

    Attributes:
        linears: Updates of linears, by path; float32.
        modules: Trained modules of another kind, and the classifier, by path: their tensors.
        left_out: Names of changed tensors that belong to no such module (position embeddings, tables of biases).
    """

    linears: Mapping[str, LinearUpdate]
    modules: Mapping[str, Mapping[str, Tensor]]
    left_out: tuple[str, ...]

    @property
    def rank(self) -> int:
        """The largest rank of a linear's update, at least 1."""
        return max((len(update.a) for update in self.linears.values()), default=0) or 1

    def at(self, rank: int) -> Update:
        """Return the best approximation of a rank."""
        return Update({path: update.at(rank) for path, update in self.linears.items()}, self.modules, self.left_out)


def update_of(plain: nn.Module, merged: nn.Module, head: str) -> Update:
    """Return what distinguishes a merged model in float64 from the plain one in float32.

    Args:
        plain: Model before it was adapted.
        merged: Model of the same structure after merging.
        head: Path of the classifier.
    """
    linears: dict[str, LinearUpdate] = {}
    modules: dict[str, Mapping[str, Tensor]] = {}
    left_out: list[str] = []
    for path, module in merged.named_modules():
        before = plain.get_submodule(path)
        old, new = dict(before.named_parameters(recurse=False)), dict(module.named_parameters(recurse=False))
        changed = [name for name in new if name not in old or not torch.equal(old[name], new[name].float())]
        if path == head:
            modules[path] = {name: tensor.detach().float() for name, tensor in new.items()}
        elif changed and isinstance(module, nn.Linear):
            linears[path] = _linear_update(cast(nn.Linear, before), module)
        elif changed and path and not any(module.children()) and old.keys() == new.keys():
            modules[path] = {name: tensor.detach().float() for name, tensor in module.state_dict().items()}
        else:
            left_out += [f"{path}.{name}".lstrip(".") for name in changed]
    if not linears:  # LoRA adapts at least one
        path, first = next((p, m) for p, m in plain.named_modules() if isinstance(m, nn.Linear) and p != head)
        linears[path] = LinearUpdate(torch.zeros(0, first.in_features), torch.zeros(first.out_features, 0), None)
    return Update(linears, modules, tuple(left_out))


def _linear_update(before: nn.Linear, after: nn.Linear) -> LinearUpdate:
    delta = after.weight.detach() - before.weight.detach().double()
    wide = delta.shape[0] < delta.shape[1]
    values, vectors = torch.linalg.eigh(delta @ delta.T if wide else delta.T @ delta)  # in rising order
    kept = vectors.flip(-1)[:, values.flip(0) > _ZERO * values[-1].clamp(min=torch.finfo(values.dtype).tiny)]
    b, a = (kept, kept.T @ delta) if wide else (delta @ kept, kept.T)
    bias = None
    if after.bias is not None:
        own = torch.zeros_like(after.bias) if before.bias is None else before.bias.detach().double()
        bias = after.bias.detach() - own
        bias = bias.float() if bias.any() else None
    return LinearUpdate(a.float().contiguous(), b.float().contiguous(), bias)


@contextmanager
def updated(plain: nn.Module, update: Update) -> Iterator[nn.Module]:
    """Give a plain model the update for the block: each linear adds B A x to its output, as a LoRA layer in its place does."""
    hooks = [plain.get_submodule(path).register_forward_hook(_adding(one)) for path, one in update.linears.items()]
    kept = {path: {name: t.clone() for name, t in plain.get_submodule(path).state_dict().items()} for path in update.modules}
    try:
        for path, tensors in update.modules.items():
            plain.get_submodule(path).load_state_dict(tensors)
        yield plain
    finally:
        for hook in hooks:
            hook.remove()
        for path, tensors in kept.items():
            plain.get_submodule(path).load_state_dict(tensors)


def _adding(update: LinearUpdate) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output + inputs[0] @ update.a.T @ update.b.T
        return output if update.bias is None else output + update.bias

    return add


def never_called(plain: nn.Module, update: Update, images: Tensor) -> list[str]:
    """Return the paths of updated linears that the model does not call as modules, where a layer in their place has no effect."""
    called: set[str] = set()
    hooks = [plain.get_submodule(path).register_forward_hook(lambda *_, path=path: called.add(path)) for path in update.linears]
    with torch.inference_mode():
        plain(images)
    for hook in hooks:
        hook.remove()
    return [path for path in update.linears if path not in called]


def smallest_rank(largest: int, is_enough: Callable[[int], bool]) -> int:
    """Return a rank that is enough, whose half or predecessor is not: doubling from 1, then bisection. `largest` if none is."""
    low, high = 0, 1  # low is not enough
    while high < largest and not is_enough(high):
        low, high = high, 2 * high
    high = min(high, largest)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
