"""The loading of methods that users bring: the only place where their code is run.

A file holds one subclass of `Method`, its layers, and its `SPACE`. It is run as a module, from the text whose digest was taken, so
that what runs is what was compared, also for a module of an installed package. A worker gets the text, not a pickle: it needs no
such file on its machine.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from trainables.adapters import METHODS, PREFIX, TYPES, Method, types_of
from trainables.method_files import MethodFile, of_argument


class _TextLoader(importlib.abc.ExecutionLoader):
    """A loader of a module whose source is known."""

    def __init__(self, file: MethodFile) -> None:
        self._file = file

    def get_source(self, fullname: str) -> str:
        """Return the text of the file."""
        return self._file.text

    def get_filename(self, fullname: str) -> str:
        """Return the path of the file, for tracebacks."""
        return self._file.source


@functools.cache
def run_file(file: MethodFile) -> ModuleType:
    """Run a file and return its module.

    Raises:
        ValueError: If it does not import; the message names the line.
    """
    package = file.source.rpartition(".")[0] if file.is_module else ""  # for relative imports
    name = f"{package}.paretune_method_{file.digest[:16]}".lstrip(".")
    try:
        loader = _TextLoader(file)
        spec = importlib.util.spec_from_loader(name, loader)
        assert spec is not None  # noqa: S101 - `spec_from_loader` returns None only without a loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up there
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        line = error.lineno if isinstance(error, SyntaxError) else _line(error, file.source)
        place = "" if line is None else f", line {line}"
        raise ValueError(f"{file.source}{place}: does not import: {type(error).__name__}: {error}") from error
    return module


def _line(error: BaseException, source: str) -> int | None:
    """Return the last line of a file in the traceback of an error."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    return lines[-1] if lines else None


def method_class(file: MethodFile) -> type[Method]:
    """Run a file and return its method.

    Raises:
        ValueError: If it does not import, does not define exactly one method, or its method has a name that is taken, or fields
            that no configuration can hold.
    """
    module = run_file(file)
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    named = list(dict.fromkeys(kind for kind in classes if "name" in vars(kind)))
    if not named:
        found = f"; {classes[0].__name__} has no `name: ClassVar[str]`" if classes else ""
        raise ValueError(
            f"{file.source}: has no method: a class that derives from trainables.adapters.Method and has a name{found}"
        )
    if len(named) > 1:
        names = ", ".join(kind.__name__ for kind in named)
        raise ValueError(f"{file.source}: has {len(named)} methods ({names}); write one file for each")
    [kind] = named
    if not isinstance(kind.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", kind.name):
        raise ValueError(f"{file.source}: the name of a method has small letters, digits and _; got {kind.name!r}")
    if kind.name in METHODS or f"{kind.name}." == PREFIX:
        raise ValueError(f"{file.source}: the name {kind.name} is taken by a method of Paretune; choose another")
    if not getattr(vars(kind).get("__dataclass_params__"), "frozen", False):
        raise ValueError(f"{file.source}: {kind.__name__} must be a @dataclass(frozen=True)")
    for field, types in types_of(kind).items():
        if not set(types.split(" | ")) <= TYPES.keys():
            raise ValueError(f"{file.source}: {kind.__name__}.{field} is {types}; a knob is one of {', '.join(TYPES)}")
    try:
        kind()
    except Exception as error:
        raise ValueError(f"{file.source}: {kind.__name__}() fails: {type(error).__name__}: {error}") from error
    return kind


def own_methods(methods: Sequence[Mapping[str, Any]]) -> dict[str, type[Method]]:
    """Return the methods of the argument `methods` of `trainables.make`, by name.

    Raises:
        Changed: If a file is not that with which the study began.
        ValueError: If a file has no usable method.
    """
    return {argument["name"]: method_class(of_argument(argument)) for argument in methods}
