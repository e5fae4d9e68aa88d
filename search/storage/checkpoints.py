"""The folder of a study's checkpoints: its own folder, or a location that all its machines share, a folder or an object store.

A shared location has a folder for each study: `study.json`, which identifies the study, `trials/NNNN/`, `final/trials/NNNN/` and
`adapters/NNNN/`. All other files of a study are stored with its ledger.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from search.errors import LedgerError
from search.storage.object_store import ObjectStoreFolder, is_address
from search.storage.whole_file import synchronise, write_whole

_MARK = "study.json"
Folder = Path | ObjectStoreFolder


# -- a study's folder --------------------------------------------------------------------------------------------------------------


def open_folder(address: str) -> Folder:
    """Return the folder that an address or a path names."""
    return ObjectStoreFolder(address) if is_address(address) else Path(address)


def impatient(folder: Folder) -> Folder:
    """Return the same folder without waiting for an unreachable store."""
    return folder.impatient() if isinstance(folder, ObjectStoreFolder) else folder


def checkpoint_folder(folder: Path, name: str, shared: str | None) -> Folder:
    """Return the folder of a study's checkpoints.

    Args:
        folder: Folder of the study.
        name: Name of the study.
        shared: Location that all machines share (`Facts.checkpoints`); None for the study's folder.
    """
    return folder if shared is None else open_folder(shared) / name


def refuse_taken(folder: Folder) -> None:
    """Refuse to create a study in a folder that holds another one's checkpoints.

    Raises:
        LedgerError: If the folder belongs to another study.
    """
    if read_file(folder, _MARK) is not None:
        raise LedgerError(f"{folder} holds the checkpoints of another study of this name; choose another name, or delete them")


def claim_folder(folder: Folder, uid: str, opening: str) -> None:
    """Mark the folder as the study's, by a driver that opens it; this also repairs the missing mark of a driver that died early.

    Args:
        folder: Folder of the study's checkpoints.
        uid: Unique id of the study.
        opening: Token of the driver's event `opened`; a copy of the ledger that was made before does not have it.

    Raises:
        LedgerError: If the folder belongs to another study.
    """
    own = {"uid": uid, "opened": opening}
    blob = json.dumps(own).encode()
    mark = _read_mark(folder)
    if mark is None:
        _create_file(folder, _MARK, blob)  # another study may have looked at the same moment
        mark = _read_mark(folder)
    if mark is not None and mark["uid"] != uid:
        raise LedgerError(f"{folder} holds the checkpoints of another study of this name; give this study's ledger its own again")
    if mark != own:
        write_file(folder, _MARK, blob)


def refuse_foreign(folder: Folder, uid: str, openings: Collection[str]) -> None:
    """Refuse to change checkpoints that are not those of a ledger: another study's, or those that another copy of it drives.

    Args:
        folder: Folder of the checkpoints.
        uid: Unique id of the ledger's study.
        openings: Tokens of the ledger's events `opened`.

    Raises:
        LedgerError: If the folder belongs to another study, to a ledger that has gone further than this one, or to no known one.
    """
    if (mark := _read_mark(folder)) is None:
        raise LedgerError(
            f"{folder} has no {_MARK}, so that its checkpoints may be another study's; nothing was changed. If they are this "
            f"study's, write it again: {json.dumps({'uid': uid})}"
        )
    if mark["uid"] != uid:
        raise LedgerError(f"{folder} holds the checkpoints of another study of this name; nothing was changed")
    if mark.get("opened", None) not in (None, *openings):  # an earlier Paretune wrote none
        raise LedgerError(
            f"{folder} is in use by another copy of this ledger, which has been opened since this one was copied; nothing was "
            "changed: run the command on that ledger, or resume the study with this one"
        )


def _read_mark(folder: Folder) -> dict[str, str] | None:
    """Return the mark that a study's driver has left in its folder of checkpoints; None if there is none.

    Raises:
        LedgerError: If the file is not whole.
    """
    if (blob := read_file(folder, _MARK)) is None:
        return None
    try:
        mark = json.loads(blob)
        return {"uid": str(mark["uid"]), **({"opened": str(mark["opened"])} if "opened" in mark else {})}
    except (ValueError, TypeError, KeyError):
        raise LedgerError(
            f"{folder}/{_MARK} is not whole (a power cut leaves such files); delete it if the checkpoints there are this study's, "
            "and run the study: it writes the file again"
        ) from None


# -- folders of either kind --------------------------------------------------------------------------------------------------------


def read_file(folder: Folder, name: str) -> bytes | None:
    """Return the content of a file, None if it does not exist."""
    if isinstance(folder, ObjectStoreFolder):
        return folder.read(name)
    path = folder / name
    return path.read_bytes() if path.is_file() else None


def write_file(folder: Folder, name: str, blob: bytes) -> None:
    """Create or replace a file atomically."""
    if isinstance(folder, ObjectStoreFolder):
        folder.write(name, blob)
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / name, lambda draft: draft.write_bytes(blob), durable=True)


def folder_sizes(folder: Folder) -> dict[str, int]:
    """Return the size in bytes of each subfolder, by name."""
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
        with suppress(FileNotFoundError):  # replaced or deleted at this moment
            if file.is_file():
                found[str(file.relative_to(folder))] = file.stat().st_size
    return found


def find_drafts(study: Folder) -> dict[Path, int]:
    """Return the half-written files in the folders of trials, with their sizes; an object store has none."""
    if isinstance(study, ObjectStoreFolder):
        return {}
    files = [file for file in (study / "trials").glob("[0-9]*/.*") if file.is_file() and file.name != FENCE]
    return {file: file.stat().st_size for file in files}


def remove_folder(folder: Folder) -> None:
    """Delete a folder with its content; it may be missing."""
    if isinstance(folder, ObjectStoreFolder):
        folder.remove()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _create_file(folder: Folder, name: str, blob: bytes) -> None:
    """Create a file unless another process has just created it; an object store keeps the last one."""
    if isinstance(folder, ObjectStoreFolder):
        folder.write(name, blob)
        return
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{uuid.uuid4().hex[:8]}.{name}"
    write_file(folder, draft.name, blob)
    try:
        os.link(draft, folder / name)
        synchronise(folder)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        write_file(folder, name, blob)
    finally:
        draft.unlink()


def copy_folder(origin: Folder, target: Folder, *, leave: str) -> None:
    """Replace a folder by a copy of another one's files, atomically.

    Args:
        origin: Folder to copy; its subfolders are ignored.
        target: Folder to replace, in the same location.
        leave: Name of a file that is not copied.
    """
    if isinstance(origin, Path) and isinstance(target, Path):
        draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
        shutil.copytree(origin, draft, ignore=shutil.ignore_patterns(leave))
        shutil.rmtree(target, ignore_errors=True)  # left by a driver that died before it had recorded the trial
        draft.rename(target)
        return
    remove_folder(target)
    for name in origin.sizes() if isinstance(origin, ObjectStoreFolder) else [file.name for file in origin.iterdir()]:
        if name != leave and (blob := read_file(origin, name)) is not None:
            write_file(target, name, blob)  # a trial has one file, which is written atomically


FLAG = "stop"  # equal to `trainables.protocol.STOP_FLAG`
FENCE = ".worker"  # equal to `trainables.folder.FENCE`


def trial_folder(study: Folder, number: int) -> Folder:
    """Return the folder of a trial's checkpoint, below the study's checkpoint folder."""
    return study / "trials" / f"{number:04d}"


def has_checkpoint(study: Folder, number: int, run: int = 1) -> bool:
    """Return whether a trial's folder contains anything of a run but the stop flag and drafts of a worker that was killed."""
    return any(name != FLAG and not name.startswith(".") for name in _files_of_run(trial_folder(study, number), run))


def remove_run(study: Folder, number: int, run: int) -> None:
    """Delete the files of one run of a trial; they may be missing."""
    folder = trial_folder(study, number)
    if run == 1:
        remove_folder(folder)
        return
    for name in _files_of_run(folder, run):
        if isinstance(folder, ObjectStoreFolder):
            folder.delete(name)
        else:
            (folder / name).unlink(missing_ok=True)


def _files_of_run(folder: Folder, run: int) -> list[str]:
    names = folder.sizes() if isinstance(folder, ObjectStoreFolder) else [file.name for file in folder.glob("*")]
    return [name for name in names if (name.startswith(f"run-{run}-") if run > 1 else not name.startswith("run-"))]


def set_stop_flag(study: Folder, numbers: Iterable[int], *, patient: bool = True) -> None:
    """Request the workers of trials to stop.

    Args:
        study: Folder of the study's checkpoints.
        numbers: Numbers of the trials.
        patient: True to wait for an unreachable object store.
    """
    for number in numbers:
        folder = trial_folder(study, number)
        if isinstance(folder, ObjectStoreFolder):
            (folder if patient else folder.impatient()).write(FLAG, b"")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FLAG).touch()


def clear_stop_flag(study: Folder, number: int) -> None:
    """Delete the stop flag of a trial, so that its worker trains."""
    folder = trial_folder(study, number)
    if isinstance(folder, ObjectStoreFolder):
        folder.delete(FLAG)
    else:
        (folder / FLAG).unlink(missing_ok=True)
