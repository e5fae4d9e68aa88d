"""Where a study's checkpoints lie: in its folder, or in a place that all its machines share, a folder or an object store.

A place that is shared has a folder for each study: `study.json`, which says whose it is, `trials/NNNN/`, `final/trials/NNNN/` and
`adapters/NNNN/`. Everything else of a study lies with its ledger.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from search.errors import LedgerError
from search.storage.object_store import ObjectStoreFolder, is_address
from search.storage.whole_file import write_whole

_MARK = "study.json"
Folder = Path | ObjectStoreFolder


# -- a study's place ---------------------------------------------------------------------------------------------------------------


def open_folder(address: str) -> Folder:
    """What an address or a path names."""
    return ObjectStoreFolder(address) if is_address(address) else Path(address)


def impatient(folder: Folder) -> Folder:
    """The same, for those who cannot wait for a store that is away."""
    return folder.impatient() if isinstance(folder, ObjectStoreFolder) else folder


def checkpoint_folder(folder: Path, name: str, shared: str | None) -> Folder:
    """Return the folder of a study's checkpoints.

    Args:
        folder: The study's folder.
        name: The study's name.
        shared: The place that all machines share (`Facts.checkpoints`); None for the study's folder.
    """
    return folder if shared is None else open_folder(shared) / name


def refuse_taken(folder: Folder) -> None:
    """A study that is made begins in a place where no other one is.

    Raises:
        LedgerError: Another one is there.
    """
    if read_file(folder, _MARK) is not None:
        raise LedgerError(f"{folder} holds the checkpoints of another study of this name; choose another name, or remove them")


def claim_folder(folder: Folder, uid: str) -> None:
    """Say whose the place is; a driver that died before it could is made up for.

    Raises:
        LedgerError: It is another study's.
    """
    if (mark := read_file(folder, _MARK)) is None:
        write_file(folder, _MARK, json.dumps({"uid": uid}).encode())
    elif json.loads(mark)["uid"] != uid:
        raise LedgerError(f"{folder} holds the checkpoints of another study of this name; give this one's ledger its own back")


# -- folders of either kind --------------------------------------------------------------------------------------------------------


def read_file(folder: Folder, name: str) -> bytes | None:
    """What a file holds, None if there is none."""
    if isinstance(folder, ObjectStoreFolder):
        return folder.read(name)
    path = folder / name
    return path.read_bytes() if path.is_file() else None


def write_file(folder: Folder, name: str, blob: bytes) -> None:
    """Make or replace a file, whole or not at all."""
    if isinstance(folder, ObjectStoreFolder):
        folder.write(name, blob)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, lambda draft: draft.write_bytes(blob))


def folder_sizes(folder: Folder) -> dict[str, int]:
    """Bytes in each folder that lies there, by its name."""
    found: dict[str, int] = {}
    files = folder.sizes() if isinstance(folder, ObjectStoreFolder) else _files_below(folder)
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


def remove_folder(folder: Folder) -> None:
    """Remove a folder with all that it holds; it may be missing."""
    if isinstance(folder, ObjectStoreFolder):
        folder.remove()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def copy_folder(origin: Folder, target: Folder, *, leave: str) -> None:
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
    remove_folder(target)
    for name in origin.sizes() if isinstance(origin, ObjectStoreFolder) else [file.name for file in origin.iterdir()]:
        if name != leave and (blob := read_file(origin, name)) is not None:
            write_file(target, name, blob)  # a trial has one file, which is written whole


FLAG = "stop"  # `trainables.protocol.STOP_FLAG` is the same


def trial_folder(study: Folder, number: int) -> Folder:
    """Where a trial's checkpoint lies, in the place of the study's checkpoints."""
    return study / "trials" / f"{number:04d}"


def has_checkpoint(study: Folder, number: int) -> bool:
    """Whether there is anything in a trial's folder but its flag."""
    folder = trial_folder(study, number)
    names = folder.sizes() if isinstance(folder, ObjectStoreFolder) else [file.name for file in folder.glob("*")]
    return any(name != FLAG for name in names)


def set_stop_flag(study: Folder, numbers: Iterable[int], *, patient: bool = True) -> None:
    """Tell the workers of trials to stop.

    Args:
        study: Where its checkpoints lie.
        numbers: Of the trials.
        patient: Whether an object store that is away is waited for.
    """
    for number in numbers:
        folder = trial_folder(study, number)
        if isinstance(folder, ObjectStoreFolder):
            (folder if patient else folder.impatient()).write(FLAG, b"")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FLAG).touch()


def clear_stop_flag(study: Folder, number: int) -> None:
    """Let a trial's worker train."""
    folder = trial_folder(study, number)
    if isinstance(folder, ObjectStoreFolder):
        folder.delete(FLAG)
    else:
        (folder / FLAG).unlink(missing_ok=True)
