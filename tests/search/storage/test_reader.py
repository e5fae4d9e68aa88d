"""Who may only read a study reads it, and changes nothing: as another user of the machine."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from search.trial import State

from ..command_line import paretune
from ..scripted_study import ScriptedStudy


@contextlib.contextmanager
def somebody_else() -> Iterator[None]:
    """Within the block this process has the permissions of another user, if it can."""
    if os.geteuid() != 0:
        yield
        return
    nobody = pwd.getpwnam("nobody")
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that all may look into (that of a test is private), with a study that has ended."""
    folder = Path(tempfile.mkdtemp(prefix="paretune-readers-"))
    folder.chmod(0o755)
    scripted = ScriptedStudy(folder / "paretune-studies", "s")
    scripted.finish(0, 1)
    scripted.ledger.close()
    yield folder
    writable(folder)
    shutil.rmtree(folder)


def writable(folder: Path, *, file: int = 0o644, around: int = 0o755) -> None:
    """Give every file and folder of a study its permissions."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(around if path.is_dir() else file)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [("front", "s"), ("trials", "s", "--json"), ("status", "s"), ("events", "s"), ("ls",)])
def test_a_study_that_may_only_be_read_is_read_and_stays_as_it_is(home: Path, command: tuple[str, ...]) -> None:
    mine = paretune(*command, cwd=home)
    before = content(home)
    writable(home, file=0o444, around=0o555)
    with somebody_else():
        theirs = paretune(*command, cwd=home)
    assert (theirs.returncode, theirs.stdout) == (0, mine.stdout), theirs.stderr
    assert content(home) == before


def test_a_study_whose_driver_is_writing_is_read_up_to_its_last_decision(home: Path) -> None:
    scripted = ScriptedStudy(home / "paretune-studies", "live")
    with closing(scripted.ledger):
        scripted.finish(0)
        for path in (home / "paretune-studies" / "live").iterdir():
            path.chmod(0o644)
        with somebody_else():
            read = paretune("trials", "live", "--json", cwd=home)
        assert read.returncode == 0, read.stderr
        assert State.COMPLETE.value in read.stdout


def test_who_may_only_read_is_told_so_and_not_to_restore_anything(home: Path) -> None:
    writable(home, file=0o444, around=0o555)
    with somebody_else():
        said = [paretune("unpause", "s", cwd=home), paretune("prune", "s", "0", cwd=home)]
    writable(home)
    (home / "paretune-studies" / "s" / "ledger.db").chmod(0o000)
    with somebody_else():
        said.append(paretune("front", "s", cwd=home))
    for one, may in zip(said, ("only read it", "", "not read it"), strict=True):
        assert one.returncode == 2
        assert may in one.stderr
        assert "restore" not in one.stderr
        assert "Traceback" not in one.stderr
