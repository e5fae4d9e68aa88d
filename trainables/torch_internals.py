"""The private parts of torch, torchvision and timm that keep torch's compiler away, whose import takes as long as torch's own.

The compiler (`torch._dynamo`, and with it inductor, sympy and triton) is imported by torchvision for a helper of an operation that
we never call, by timm to mark methods of one model, by every optimiser for calls that do nothing outside compiled code, and by
operations on the meta device: as read in torch 2.15, torchvision 0.29 and timm 1.0. What compiles nothing needs none of it. Where a
library has changed, the compiler is imported as usual.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

_COMPILER: Final = "torch._dynamo"
_FILLS: Final = frozenset(
    {"add_", "clamp_", "div_", "erfinv_", "fill_", "mul_", "normal_", "sub_", "uniform_", "zero_"}
)  # in place
_ROI_ALIGN: Final = "torchvision.ops.roi_align"  # imports `is_compile_supported`, and calls it when it runs
_TIMM_TYPING: Final = "timm.layers.typing"  # names `torch.compiler.disable`, which imports the compiler to mark a function


def leave_out_compiler() -> None:
    """Let later imports of torchvision and timm leave out the compiler."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def undecorated(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return an optimiser's method without the wrapper that keeps the compiler away from it; itself if it has none."""
    inner: Callable[..., Any] = getattr(method, "__wrapped__", method)
    return inner


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make tensors without values inside the block (torch's meta device), and skip the operations that would fill them.

    torch takes those of the meta device apart in Python, with the compiler's help.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            named = kwargs or {}
            filled = args[0] if args else named.get("tensor")
            if getattr(func, "__name__", "") in _FILLS and isinstance(filled, torch.Tensor) and filled.is_meta:
                return filled
            return func(*args, **named)

    with torch.device("meta"), Unfilled():
        yield


@contextmanager
def meta_kernels() -> Iterator[None]:
    """Keep the compiler away from operations on the meta device inside the block.

    torch's forms of them in Python import it only to hide themselves from it. Its symbolic shapes are imported all the same.
    """
    import torch

    if _COMPILER in sys.modules:
        yield
        return
    compiler = ModuleType(_COMPILER)
    compiler.disable = lambda function, *_, **__: function  # type: ignore[attr-defined]
    sys.modules[_COMPILER] = vars(torch)["_dynamo"] = compiler
    try:
        yield
    finally:
        del sys.modules[_COMPILER], vars(torch)["_dynamo"]


def use_deterministic_algorithms(*, warn_only: bool, compiled: bool) -> None:
    """Let torch refuse operations without a deterministic form, as `torch.use_deterministic_algorithms` does.

    That function imports the compiler to set the same switch there.

    Args:
        warn_only: True to warn instead.
        compiled: True to set the compiler's switch too.
    """
    import torch

    switch = getattr(torch._C, "_set_deterministic_algorithms", None)
    if compiled or _COMPILER in sys.modules or switch is None:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
    else:
        switch(True, warn_only=warn_only)


class _Finder(MetaPathFinder):
    """A finder of the two modules."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in (_ROI_ALIGN, _TIMM_TYPING) or _COMPILER in sys.modules:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithoutCompiler(spec.loader)
        return spec


class _WithoutCompiler(Loader):
    """A loader that runs one of the modules so that it does not import the compiler."""

    def __init__(self, usual: Loader) -> None:
        self._usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == _ROI_ALIGN:
            self._with_stand_ins(module)
            return
        self._usual.exec_module(module)
        from torch import _compile

        if hasattr(module, "disable_compiler") and hasattr(_compile, "_disable_dynamo"):
            vars(module)["disable_compiler"] = _compile._disable_dynamo  # torch's own: imports it in the first call

    def _with_stand_ins(self, module: ModuleType) -> None:
        """Run the module while stand-ins take the places of the compiler and its helpers."""
        package, helpers = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
        helpers.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
        stand_ins = {one.__name__: one for one in (package, helpers)}
        sys.modules.update(stand_ins)
        try:
            self._usual.exec_module(module)
            return
        except ImportError:
            pass  # it asks for more than it did
        finally:
            for name in stand_ins:
                del sys.modules[name]
        self._usual.exec_module(module)


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))
