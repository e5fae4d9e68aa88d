"""Folders in object stores, accessed through pyarrow."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from search.secret import STORE_KEYS, userinfo_of

_T = TypeVar("_T")
_PAUSES = (0.5, 1, 2, 4, 8, 15, 30)  # seconds between retries; an unreachable store is retried for a minute
_LOOKS_EVERY_SECONDS = 1.0  # minimum time between two polls for a flag, because each is a request


def is_address(text: object) -> bool:
    """Return whether a text is meant as an address, valid or not, and not as a path."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://?", text) is not None


def check_address(text: str) -> str:
    """Check the address or path of a shared location; return it, with `file://` converted to a path.

    Raises:
        ValueError: If it is not an address, or may contain a secret; the message does not repeat it.
    """
    if not is_address(text):
        return text
    parts = urlsplit(text)
    user = userinfo_of(text)
    secret = "@" in parts.netloc or ":" in user or parts.fragment or any(one in user for one in "?#")
    if secret or any(key not in STORE_KEYS for key, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError(
            "the address may contain a secret; remove it, and provide credentials by the environment (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY), ~/.aws, or the machine's own role. Only these keys are allowed after the question mark: "
            + ", ".join(STORE_KEYS)
        )
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError("a path must have the form file:///folder, or /folder")
        return unquote(parts.path)
    if "://" not in text or not parts.netloc:
        raise ValueError("the address of an object store must have the form s3://bucket/folder")
    return text


class ObjectStoreFolder:
    """A folder in an object store that `pyarrow.fs` can access by an address. It exists as soon as it contains a file.

    It is pickled as its address: every process connects itself, with the credentials in its environment.

    Args:
        address: Address of the folder, checked by `check_address`.
        patient: True to retry an unreachable store for a minute.
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
        """Return the same folder without retries."""
        return ObjectStoreFolder(self._base + self._parameters, patient=False)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if it does not exist."""

        def get() -> bytes | None:
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

        return self._patiently(get)

    def write(self, name: str, blob: bytes) -> None:
        """Create or replace a file atomically: readers see the old one or the new one, also if a signal ends this process."""

        def put() -> None:
            with self._files.open_output_stream(self._path(name)) as stream:
                stream.write(blob)

        self._patiently(lambda: _to_its_end(put))

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""

        def remove() -> None:
            if self._files.get_file_info(self._path(name)).is_file:
                self._files.delete_file(self._path(name))

        self._patiently(remove)

    def remove(self) -> None:
        """Delete the folder with its content."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._files.delete_dir(self._path())

        self._patiently(remove)

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of all files below, by relative path."""
        from pyarrow.fs import FileSelector

        base = self._path()
        selector = FileSelector(base, recursive=True, allow_not_found=True)
        infos = self._patiently(lambda: self._files.get_file_info(selector))
        return {info.path.removeprefix(f"{base}/"): info.size for info in infos if info.is_file}

    def exists(self, name: str) -> bool:
        """Return whether a file exists. It polls at most once a second; an unreachable store counts as having none."""
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


def _to_its_end(put: Callable[[], None]) -> None:
    """Write in a thread of its own, where no signal raises its exception.

    pyarrow has no abort: an output stream that is left between its opening and its write replaces the file by an empty one.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="paretune-put") as thread:  # which is left when the write has ended
        thread.submit(put).result()


@cache
def _connected(scheme: str, where: str, parameters: str) -> Any:
    """Return the file system, created once per process. `AWS_ENDPOINT_URL` names a store other than Amazon's."""
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(f"{scheme}://{where}{parameters}")[0]
