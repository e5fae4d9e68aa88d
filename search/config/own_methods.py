"""The methods that users bring: a path or an installed package's entry point in `methods` becomes a name with its space.

Their code is run here, once, when a user's study file is read. A ledger holds names, sources and spaces as data: who reads a study
does not run them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import spaces
from search.errors import RequestError
from spaces import Knob, Space
from trainables import method_files
from trainables.imports import large_imports
from trainables.method_files import MethodFile

if TYPE_CHECKING:
    from trainables.adapters import Method


@dataclass(frozen=True)
class OwnMethod:
    """A method that the user brought.

    Attributes:
        name: Name of the method.
        source: Absolute path of its file, or dotted name of a module of an installed package.
        space: Space of the method.
        code: File as it was when the user's study file was read; None for a method that a ledger holds.
    """

    name: str
    source: str
    space: Space
    code: MethodFile | None = field(default=None, compare=False)
    _found: dict[str | None, MethodFile] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_json(cls, name: str, stored: Mapping[str, Any]) -> OwnMethod:
        """Return the method that a ledger holds.

        Raises:
            ValueError: If the ledger is damaged.
        """
        try:
            return cls(name, str(stored["source"]), Space.from_json(stored["space"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{name} is not a stored method ({type(error).__name__}: {error})") from error

    def as_json(self) -> dict[str, Any]:
        """Return source and space as plain JSON values."""
        return {"source": self.source, "space": self.space.as_json()}

    def as_argument(self, digest: str | None) -> dict[str, str]:
        """Return the method as an element of the argument `methods` of `trainables.make`, with its text.

        Args:
            digest: Digest with which the study began; None if it begins now.

        Raises:
            RequestError: If the user has not named the file.
        """
        return self.file(digest).as_argument(self.name, digest)

    def file(self, digest: str | None) -> MethodFile:
        """Return the file, if the user has named it; it is read once, so that it may be edited while a search runs.

        Args:
            digest: Digest with which the study began; None if it begins now.

        Raises:
            RequestError: If the user has not named it.
        """
        if self.code is not None:
            return self.code
        if digest not in self._found:
            try:
                self._found[digest] = method_files.find_file(self.name, self.source, digest)
            except ValueError as error:
                raise RequestError(str(error)) from error
        return self._found[digest]


def load_file(path: Path) -> tuple[OwnMethod, type[Method]]:
    """Run a file that the user names; return its method and its class.

    Raises:
        ValueError: If it has no usable method with a space; the message names the file.
    """
    return _loaded(method_files.read_file(method_files.name_file(path)))


def load_named(entry: str, folder: Path = Path()) -> tuple[OwnMethod, type[Method]]:
    """Run the file or the installed method that the user names; return its method and its class.

    Raises:
        RequestError: If it has no usable method.
    """
    try:
        if (load := _loader(entry, folder)) is None:
            installed = ", ".join(sorted(method_files.installed_methods())) or "none"
            raise ValueError(
                f"{entry}: neither a path (./{entry}.py) nor the method of an installed package (there is {installed})"
            )
        return load()
    except ValueError as error:
        raise RequestError(str(error)) from error


def _loaded(file: MethodFile) -> tuple[OwnMethod, type[Method]]:
    with large_imports():
        from trainables.adapters import types_of
        from trainables.adapters.own import method_class, run_file

        kind = method_class(file)
    space = getattr(run_file(file), "SPACE", None)
    if not isinstance(space, Space):
        found = "has no SPACE" if space is None else f"SPACE is {type(space).__name__}"
        raise ValueError(f"{file.source}: {found}; write SPACE = Space({kind.name!r}, (...)), with a Knob for each field")
    if space.method != kind.name:
        raise ValueError(f"{file.source}: SPACE is of the method {space.method!r}, and {kind.__name__} has the name {kind.name!r}")
    if not isinstance(space.knobs, tuple) or not all(isinstance(knob, Knob) for knob in space.knobs):
        raise ValueError(f"{file.source}: the knobs of SPACE must be a tuple; a single one is written with a comma: (knob,)")
    knobs, fields = {knob.key for knob in space.knobs}, {f"{kind.name}.{field}" for field in types_of(kind)}
    if knobs != fields:
        missing, other = ", ".join(sorted(fields - knobs)), ", ".join(sorted(knobs - fields))
        told = [f"no knob for {missing}"] * bool(missing) + [f"no field for {other}"] * bool(other)
        raise ValueError(f"{file.source}: SPACE has one knob for each field of {kind.__name__}; there is {' and '.join(told)}")
    shared = {knob.key for knob in spaces.SHARED}
    if unknown := sorted(space.recipe.keys() - shared):
        raise ValueError(f"{file.source}: the recipe of SPACE has {unknown[0]}; it may have {', '.join(sorted(shared))}")
    return OwnMethod(kind.name, file.source, space, file), kind


def resolve(
    methods: Sequence[Any], folder: Path, known: Mapping[str, OwnMethod]
) -> tuple[list[Any], dict[str, OwnMethod], dict[int, str]]:
    """Replace the paths in a study file's `methods` by names, and load the entry points among the names.

    Args:
        methods: Value of `methods`.
        folder: Folder against which paths are resolved.
        known: Methods that a ledger's file holds; they are not loaded.

    Returns:
        The list with names, the methods that the user brought, and the problem of each entry that has one.
    """
    found, names, problems = dict(known), list(methods), dict[int, str]()
    for n, entry in enumerate(methods):
        if not isinstance(entry, str) or entry in found or (load := _loader(entry, folder)) is None:
            continue
        try:
            own, _ = load()
            if own.name in found and found[own.name].source != own.source:
                raise ValueError(f"{own.source}: the name {own.name} is taken by {found[own.name].source}; choose another")
            if not method_files.looks_like_file(entry) and own.name != entry:
                raise ValueError(f"{own.source}: an installed package declares it as {entry}, and its method is {own.name}")
        except ValueError as error:
            problems[n] = str(error)
        else:
            found[own.name] = own
            names[n] = own.name
    return names, found, problems


def _loader(entry: str, folder: Path) -> Callable[[], tuple[OwnMethod, type[Method]]] | None:
    """Return what loads an entry of `methods`; None for a name that no installed package declares."""
    if method_files.looks_like_file(entry):
        return lambda: load_file(folder / Path(entry).expanduser())
    if entry in spaces.SPACES or entry.startswith(spaces.peft.PREFIX):
        return None
    module = method_files.installed_methods().get(entry)
    return None if module is None else lambda: _loaded(method_files.read_installed(module))


def stored_methods(file: Mapping[str, Any]) -> Iterator[OwnMethod]:
    """Yield the methods that a resolved study file holds as data.

    Raises:
        ValueError: If one of them is damaged.
    """
    for name, stored in dict(file.get("method_files") or {}).items():
        yield OwnMethod.from_json(name, stored)


def stored_spaces(file: Mapping[str, Any]) -> dict[str, Space]:
    """Return the spaces of the methods that a resolved study file holds as data, by name."""
    return {own.name: own.space for own in stored_methods(file)}
