"""Where a ledger may lie."""

from pathlib import Path

import pytest

from search.errors import LedgerError
from search.storage import sqlite
from search.storage.sql_ledger import SqlLedger

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/export /home nfs4 rw 0 0
/dev/sdb1 /home/me/scratch xfs rw 0 0
me@host: /mnt/with\\040space fuse.sshfs rw 0 0
tmpfs /run tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/ledger.db", "ext4"),
        ("/home/me/ledger.db", "nfs4"),
        ("/homes/ledger.db", "ext4"),
        ("/home/me/scratch/ledger.db", "xfs"),
        ("/mnt/with space/study/ledger.db", "fuse.sshfs"),
        ("/run/ledger.db", "tmpfs"),
    ],
)
def test_the_innermost_mount_says_on_which_file_system_a_file_is(path: str, kind: str) -> None:
    assert sqlite.file_system(Path(path), MOUNTS) == kind
    assert sqlite.file_system(Path(path), "") == "unknown"


def test_the_mounts_of_macos_are_read_as_those_of_linux() -> None:
    printed = "/dev/disk3s1 on / (apfs, local, journaled)\n//me@server/share on /Volumes/Our share (smbfs, nodev)\n"
    mounts = sqlite.from_mount(printed)
    assert sqlite.file_system(Path("/data/ledger.db"), mounts) == "apfs"
    assert sqlite.file_system(Path("/Volumes/Our share/ledger.db"), mounts) == "smbfs"


NOT_LOCAL = (
    "nfs nfs4 cifs smb3 ceph lustre gpfs beegfs 9p afs wekafs panfs pvfs2 orangefs virtiofs gfs2 ocfs2 vboxsf prl_fs fuse unknown"
)
FUSE = "sshfs s3fs goofys mfs mount-s3 blobfuse2 quobyte juicefs gcsfuse rclone portal"


@pytest.mark.parametrize("kind", [*NOT_LOCAL.split(), *(f"fuse.{name}" for name in FUSE.split())])
def test_a_file_system_is_local_only_if_it_is_known_or_declared_to_be(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sqlite.is_local(kind)
    monkeypatch.setenv("PARETUNE_LOCAL_FILE_SYSTEMS", f"other,{kind}")
    assert sqlite.is_local(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs"])
def test_the_usual_disks_are_local(kind: str) -> None:
    assert sqlite.is_local(kind)


def test_a_ledger_on_a_file_system_that_is_not_known_to_be_local_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = database_kind(tmp_path)
    monkeypatch.setattr(sqlite, "LOCAL", frozenset())
    with pytest.raises(LedgerError, match=rf"not known to be local \({kind}\).* set PARETUNE_LOCAL_FILE_SYSTEMS={kind}"):
        SqlLedger.create(tmp_path / "s" / "ledger.db", name="s", file={}, facts={})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("PARETUNE_LOCAL_FILE_SYSTEMS", kind)
    SqlLedger.create(tmp_path / "s" / "ledger.db", name="s", file={}, facts={}).close()


def test_the_file_system_under_the_tests_is_read_from_the_system(tmp_path: Path) -> None:
    assert sqlite.file_system(tmp_path) == database_kind(tmp_path)


def database_kind(path: Path) -> str:
    """The kind of the file system that really lies under a path."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [fields for fields in mounts if str(path).startswith(fields[1].rstrip("/") + "/")]
    return max(enumerate(inside), key=lambda one: (len(one[1][1]), one[0]))[1][2]
