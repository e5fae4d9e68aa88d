"""A folder and all that is below it, as the layouts see it: folders, wanted files, and what is neither."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from trainables.data.naming import why_left_out


@dataclass
class Folder:
    """A folder with its wanted files and its sub-folders, both sorted by name.

    Attributes:
        path: Path relative to the root; "" for the root itself.
        files: Path and stamp (size, modification time in ns) of each wanted file directly in it.
        folders: Sub-folders, without those that are left out.
    """

    path: str
    files: list[tuple[str, tuple[int, int]]] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's own name; "" for the root."""
        return self.path.rpartition("/")[2]

    def all_files(self) -> list[tuple[str, tuple[int, int]]]:
        """Return the wanted files in it and below it, sorted by path, part by part."""
        return sorted(self._walk(), key=lambda file: file[0].split("/"))

    def _walk(self) -> Iterator[tuple[str, tuple[int, int]]]:
        yield from self.files
        for folder in self.folders:
            yield from folder._walk()

    def holds_files(self) -> bool:
        """Return whether a wanted file is in it or below it."""
        return bool(self.files) or any(folder.holds_files() for folder in self.folders)


@dataclass
class Found:
    """The result of a scan.

    Attributes:
        top: The folder that was scanned.
        problems: Entries that cannot be read: dangling links, folders without access, names that are no text.
        notes: Entries that were left out: hidden and system folders and files, and files of other kinds.
    """

    top: Folder
    problems: list[str]
    notes: list[str]


class _Scan:
    def __init__(self, root: Path, wanted: Callable[[Path], bool]) -> None:
        self.root, self.wanted = root, wanted
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.hidden: list[str] = []
        self.others: dict[str, list[str]] = {}

    def folder(self, below: str, around: frozenset[tuple[int, int]]) -> Folder:
        found = Folder(below)
        try:
            entries = sorted(os.scandir(self.root / below), key=lambda entry: entry.name)
        except OSError as error:
            self.problems.append(f"{below or self.root}: the folder cannot be read ({error.strerror})")
            return found
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if (why := why_left_out(entry.name)) is not None and not entry.is_dir():
                self.hidden.append(path)
                continue
            if not _is_text(entry.name):
                self.problems.append(f"{path.encode(errors='surrogateescape')!r}: its name is no UTF-8; rename it")
                continue
            try:
                status = entry.stat()
            except OSError as error:
                lost = f"a link to {os.readlink(entry)}, which does not exist" if entry.is_symlink() else "cannot be read"
                self.problems.append(f"{path}: {lost}" + ("" if entry.is_symlink() else f" ({error.strerror})"))
                continue
            if stat.S_ISDIR(status.st_mode):
                if why is not None:
                    self.notes.append(f"{path}/ is left out: a folder that is {why}")
                elif (own := (status.st_dev, status.st_ino)) in around:
                    self.problems.append(f"{path}: a link to a folder around it")
                else:
                    found.folders.append(self.folder(path, around | {own}))
            elif not stat.S_ISREG(status.st_mode):
                self.notes.append(f"{path} is left out: neither a file nor a folder")
            elif self.wanted(self.root / path):
                found.files.append((path, (status.st_size, status.st_mtime_ns)))
            else:
                self.others.setdefault(PurePosixPath(path).suffix.lower() or "no ending", []).append(path)
        return found


def scan(root: Path, wanted: Callable[[Path], bool], kind: str) -> Found:
    """Look at everything below a folder, following links.

    Args:
        root: The folder.
        wanted: Function that returns whether the layout reads a file.
        kind: Kind of such a file, for the notes: "image", "Parquet file".
    """
    scanned = _Scan(root, wanted)
    status = root.stat()
    top = scanned.folder("", frozenset({(status.st_dev, status.st_ino)}))
    notes = scanned.notes
    if scanned.hidden:
        notes.append(f"{_counted(scanned.hidden)} left out: hidden, or of the system ({_first(scanned.hidden)})")
    if others := [path for paths in scanned.others.values() for path in paths]:
        kinds = ", ".join(f"{ending} {n}" for ending, n in Counter({e: len(p) for e, p in scanned.others.items()}).most_common(5))
        notes.append(f"{_counted(others)} left out: no {kind} ({kinds}; {_first(others)})")
    return Found(top, scanned.problems, notes)


def _counted(paths: list[str]) -> str:
    return f"{len(paths):,} file{'s are' if len(paths) > 1 else ' is'}"


def _first(paths: list[str]) -> str:
    return ", ".join(paths[:2]) + (", ..." if len(paths) > 2 else "")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
