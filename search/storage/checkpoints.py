"""Where a study's checkpoints lie: in its folder, or in a place that all its machines share, a folder or an object store.

A place that is shared has a folder for each study: `study.json`, which says whose it is, `trials/NNNN/`, `final/trials/NNNN/` and
`adapters/NNNN/`. Everything else of a study lies with its ledger.
"""

from __future__ import annotations

import json
import re
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from search.errors import LedgerError

_T = TypeVar("_T")
_MARK = "study.json"
_PAUSES = (0.5, 1, 2, 4, 8, 15, 30)  # seconds; a store that is away is waited for a minute
_LOOKS_EVERY_SECONDS = 1.0  # for a flag; a look is a request
_MAY_BE_SAID = ("region", "scheme", "endpoint_override")  # in an address; all else may be a secret


def is_address(text: object) -> bool:
    """Whether someone means an address, right or wrong, and no path."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://?", text) is not None


def checked(text: str) -> str:
    """The address or the path of a shared place; `file://` is a path.

    Raises:
        ValueError: It is no address, or may hold a secret; the message does not repeat it.
    """
    if not is_address(text):
        return text
    parts = urlsplit(text)
    if "@" in parts.netloc or any(key not in _MAY_BE_SAID for key, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError(
            "the address holds what may be a secret; take it out: credentials belong into the environment (AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY), ~/.aws, or the machine's own role. After a question mark may stand {', '.join(_MAY_BE_SAID)}"
        )
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a path is written file:///folder, or /folder")
        return unquote(parts.path)
    if "://" not in text or not parts.netloc:
        raise ValueError("the address of an object store is written s3://bucket/folder")
    return text


class Remote:
    """A folder in an object store: what `pyarrow.fs` reaches by an address. It exists as soon as something lies in it.

    Pickled, it is its address: every process connects by itself, with the credentials that it finds in its environment.

    Args:
        address: Of the folder, as `checked` lets it pass.
        patient: Whether a store that is away is waited for, a minute long.
    """

    def __init__(self, address: str, *, patient: bool = True) -> None:
        where, question, parameters = address.partition("?")
        self._base, self._parameters = where.rstrip("/"), question + parameters
        self._pauses = _PAUSES if patient else ()
        self._looked = -_LOOKS_EVERY_SECONDS

    def __truediv__(self, name: str) -> Remote:
        return Remote(f"{self._base}/{name}{self._parameters}")

    def __str__(self) -> str:
        return self._base

    def __reduce__(self) -> tuple[type[Remote], tuple[str]]:
        return Remote, (self._base + self._parameters,)

    def impatient(self) -> Remote:
        """The same, for those who cannot wait."""
        return Remote(self._base + self._parameters, patient=False)

    def read(self, name: str) -> bytes | None:
        """What a file holds, None if there is none."""

        def get() -> bytes | None:
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._patiently(get)

    def write(self, name: str, blob: bytes) -> None:
        """Make or replace a file: readers see the old one or the new one, and nothing between."""

        def put() -> None:
            with self._files.open_output_stream(self._path(name)) as stream:
                stream.write(blob)

        self._patiently(put)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""

        def remove() -> None:
            if self._files.get_file_info(self._path(name)).is_file:
                self._files.delete_file(self._path(name))

        self._patiently(remove)

    def remove(self) -> None:
        """Remove the folder and all that lies below."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._files.delete_dir(self._path())

        self._patiently(remove)

    def sizes(self) -> dict[str, int]:
        """The files below, by their paths from here: bytes."""
        from pyarrow.fs import FileSelector

        base = self._path()
        selector = FileSelector(base, recursive=True, allow_not_found=True)
        infos = self._patiently(lambda: self._files.get_file_info(selector))
        return {info.path.removeprefix(f"{base}/"): info.size for info in infos if info.is_file}

    def seen(self, name: str) -> bool:
        """Whether a file is there. Looked for at most once a second; a store that does not answer has none."""
        if (now := time.monotonic()) - self._looked < _LOOKS_EVERY_SECONDS:
            return False
        self._looked = now
        with suppress(OSError):
            return bool(self._files.get_file_info(self._path(name)).is_file)
        return False

    def _patiently(self, do: Callable[[], _T]) -> _T:
        for pause in self._pauses:
            try:
                return do()
            except OSError:
                time.sleep(pause)
        return do()

    @property
    def _files(self) -> Any:
        return _connected(self._base.partition("://")[0], urlsplit(self._base).netloc, self._parameters)

    def _path(self, name: str = "") -> str:
        path = self._base.partition("://")[2]
        return f"{path}/{name}" if name else path


Folder = Path | Remote


@cache
def _connected(scheme: str, where: str, parameters: str) -> Any:
    """The file system, once per process. `AWS_ENDPOINT_URL` names a store that is not Amazon's."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f"{scheme}://{where}{parameters}")[0]


# -- a study's place ---------------------------------------------------------------------------------------------------------------


def place(address: str) -> Folder:
    """What an address or a path names."""
    return Remote(address) if is_address(address) else Path(address)


def impatient(folder: Folder) -> Folder:
    """The same, for those who cannot wait for a store that is away."""
    return folder.impatient() if isinstance(folder, Remote) else folder


def of(folder: Path, name: str, facts: Mapping[str, Any]) -> Folder:
    """Where the checkpoints of a study lie.

    Args:
        folder: The study's.
        name: The study's.
        facts: Of its ledger, which name the place if it is another one.
    """
    return folder if (shared := facts.get("checkpoints")) is None else place(shared) / name


def refuse_taken(folder: Folder) -> None:
    """A study that is made begins in a place where no other one is.

    Raises:
        LedgerError: Another one is there.
    """
    if read(folder, _MARK) is not None:
        raise LedgerError(f"{folder} holds the checkpoints of another study of this name; choose another name, or remove them")


def claim(folder: Folder, uid: str) -> None:
    """Say whose the place is; a driver that died before it could is made up for.

    Raises:
        LedgerError: It is another study's.
    """
    if (mark := read(folder, _MARK)) is None:
        write(folder, _MARK, json.dumps({"uid": uid}).encode())
    elif json.loads(mark)["uid"] != uid:
        raise LedgerError(f"{folder} holds the checkpoints of another study of this name; give this one's ledger its own back")


# -- folders of either kind --------------------------------------------------------------------------------------------------------


def read(folder: Folder, name: str) -> bytes | None:
    """What a file holds, None if there is none."""
    if isinstance(folder, Remote):
        return folder.read(name)
    path = folder / name
    return path.read_bytes() if path.is_file() else None


def write(folder: Folder, name: str, blob: bytes) -> None:
    """Make or replace a file, whole or not at all."""
    if isinstance(folder, Remote):
        folder.write(name, blob)
        return
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.{uuid.uuid4().hex[:8]}"
    draft.write_bytes(blob)
    draft.replace(folder / name)


def sizes(folder: Folder) -> dict[str, int]:
    """Bytes in each folder that lies there, by its name."""
    found: dict[str, int] = {}
    files = folder.sizes() if isinstance(folder, Remote) else _files_below(folder)
    for path, size in files.items():
        name, slash, _ = path.partition("/")
        if slash:
            found[name] = found.get(name, 0) + size
    return found


def _files_below(folder: Path) -> dict[str, int]:
    found = {}
    for file in folder.glob("*/*"):
        with suppress(FileNotFoundError):  # replaced, or collected, at this moment
            if file.is_file():
                found[str(file.relative_to(folder))] = file.stat().st_size
    return found


def remove(folder: Folder) -> None:
    """Remove a folder with all that it holds; it may be missing."""
    if isinstance(folder, Remote):
        folder.remove()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def copy(origin: Folder, target: Folder, *, leave: str) -> None:
    """Fill a folder with the files of another one, whole or not at all; what it held is gone.

    Args:
        origin: No folder below it is copied.
        target: In the same place.
        leave: A file that is not copied.
    """
    if isinstance(origin, Path) and isinstance(target, Path):
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        shutil.copytree(origin, draft, ignore=shutil.ignore_patterns(leave))
        shutil.rmtree(target, ignore_errors=True)  # of a driver that died before it had written that the trial exists
        draft.rename(target)
        return
    remove(target)
    for name in origin.sizes() if isinstance(origin, Remote) else [file.name for file in origin.iterdir()]:
        if name != leave and (blob := read(origin, name)) is not None:
            write(target, name, blob)  # a trial has one file, which is written whole
