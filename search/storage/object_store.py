"""Folders in object stores, reached by pyarrow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

_T = TypeVar("_T")
_PAUSES = (0.5, 1, 2, 4, 8, 15, 30)  # seconds; a store that is away is waited for a minute
_LOOKS_EVERY_SECONDS = 1.0  # for a flag; a look is a request
_MAY_BE_SAID = ("region", "scheme", "endpoint_override")  # in an address; all else may be a secret


def is_address(text: object) -> bool:
    """Whether someone means an address, right or wrong, and no path."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://?", text) is not None


def check_address(text: str) -> str:
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


class ObjectStoreFolder:
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

    def __truediv__(self, name: str) -> ObjectStoreFolder:
        return ObjectStoreFolder(f"{self._base}/{name}{self._parameters}")

    def __str__(self) -> str:
        return self._base

    def __reduce__(self) -> tuple[type[ObjectStoreFolder], tuple[str]]:
        return ObjectStoreFolder, (self._base + self._parameters,)

    def impatient(self) -> ObjectStoreFolder:
        """The same, for those who cannot wait."""
        return ObjectStoreFolder(self._base + self._parameters, patient=False)

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

    def exists(self, name: str) -> bool:
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


@cache
def _connected(scheme: str, where: str, parameters: str) -> Any:
    """The file system, once per process. `AWS_ENDPOINT_URL` names a store that is not Amazon's."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f"{scheme}://{where}{parameters}")[0]
