"""The files with methods that users bring: which ones a user has named, their text, and its digest. Nothing here runs them.

A method of one's own is code, and runs with the rights of the user who starts Paretune. So only two kinds of it are run: a file
that the user has named to this process, in a study file, with `paretune --method-file` or in `PARETUNE_METHODS`; and a module that
an installed package declares as an entry point of the group `paretune.methods`. A path that only a ledger or a card holds is
compared with these, and never opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from trainables.protocol import Changed

ENTRY_POINTS: Final = "paretune.methods"
VARIABLE: Final = "PARETUNE_METHODS"  # files that the user names, separated as in PATH
_named: dict[Path, None] = {}  # files that the user has named to this process, in order


@dataclass(frozen=True)
class MethodFile:
    """A file with one method.

    Attributes:
        source: Absolute path of the file; or dotted name of a module of an installed package.
        text: Text of the file.
    """

    source: str
    text: str

    @property
    def is_module(self) -> bool:
        """True if it is a module of an installed package."""
        return not self.source.endswith(".py")

    @property
    def digest(self) -> str:
        """The SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def as_argument(self, name: str, digest: str | None = None) -> dict[str, str]:
        """Return the file as an element of the argument `methods` of `trainables.make`: plain values, the text among them.

        Args:
            name: Name of the method.
            digest: Digest with which the study began; None for this file's.
        """
        return {"name": name, "source": self.source, "text": self.text, "digest": digest or self.digest}


def of_argument(argument: Mapping[str, Any]) -> MethodFile:
    """Return the file of an element of the argument `methods` of `trainables.make`.

    Raises:
        Changed: If it is not the file with which the study began; the message names file and digests.
    """
    file = MethodFile(argument["source"], argument["text"])
    if file.digest != argument["digest"]:
        raise Changed(
            f"methods: the code of {argument['name']} ({file.source}) is not that with which the study began: its digest was "
            f"{argument['digest'][:12]} and is {file.digest[:12]}; restore it, or begin a study of another name"
        )
    return file


def looks_like_file(name: str) -> bool:
    """Return whether an entry of `methods` is a path and not a name."""
    return name.endswith(".py") or "/" in name


def name_file(path: str | Path) -> Path:
    """Record that the user has named a file, so that its code may run in this process; return its absolute path."""
    found = Path(path).expanduser().absolute()
    _named[found] = None
    return found


def named_files() -> list[Path]:
    """Return the files that the user has named, to this process or in `PARETUNE_METHODS`."""
    told = [Path(part).expanduser().absolute() for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return list(dict.fromkeys([*_named, *told]))


def read_file(path: Path) -> MethodFile:
    """Read a file that the user has named.

    Raises:
        ValueError: If it cannot be read.
    """
    if path.suffix != ".py":
        raise ValueError(f"{path}: the file of a method is Python and ends in .py")
    try:
        return MethodFile(str(path), path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None


def installed_methods() -> dict[str, str]:
    """Return the modules that installed packages declare as methods, by the name of the method."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}


def read_installed(module: str) -> MethodFile:
    """Read the source of a module that an installed package declares as a method; its parent packages are imported.

    Raises:
        ValueError: If there is none.
    """
    try:
        spec = find_spec(module)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{module}: an installed package declares it as a method, but it does not import: {error}") from None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(f"{module}: an installed package declares it as a method, but has no such Python file")
    return MethodFile(module, read_file(Path(spec.origin)).text)


def find_file(name: str, source: str, digest: str | None) -> MethodFile:
    """Find the code of a method that a ledger or a card names, among what is installed and what the user has named.

    Args:
        name: Name of the method.
        source: Source of the file when the study began, which is compared and never opened.
        digest: Digest with which the study began; None if it was not recorded.

    Raises:
        ValueError: If the user has not named it; the message has the remedy.
    """
    if not source.endswith(".py"):
        if installed_methods().get(name) != source:
            raise ValueError(f"methods: {name} is the module {source} of a package that is not installed here; install it")
        return read_installed(source)
    files = [read_file(path) for path in named_files() if path.is_file()]
    for file in files:
        if file.digest == digest:
            return file
    for file in files:
        if Path(file.source).name == Path(source).name:
            return file
    if gone := [path for path in named_files() if path.name == Path(source).name]:
        read_file(gone[0])
    raise ValueError(
        f"methods: {name} is code, which was in {source} when the study began, and Paretune runs only code that you name: "
        f"paretune --method-file {source} ..., or {VARIABLE}={source}"
    )
