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
        ("/data/ledger.db", None),
        ("/home/me/ledger.db", "nfs4"),
        ("/homes/ledger.db", None),
        ("/home/me/scratch/ledger.db", None),
        ("/mnt/with space/study/ledger.db", "fuse.sshfs"),
        ("/run/ledger.db", None),
    ],
)
def test_the_innermost_mount_says_whether_a_file_is_on_the_network(path: str, kind: str | None) -> None:
    assert sqlite.network_file_system(Path(path), MOUNTS) == kind


def test_a_ledger_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "NETWORK", frozenset({database_kind(tmp_path)}))
    with pytest.raises(LedgerError, match="network file system"):
        SqlLedger.create(tmp_path / "s" / "ledger.db", name="s", file={}, facts={})
    assert list(tmp_path.iterdir()) == []


def database_kind(path: Path) -> str:
    """The kind of the file system that really lies under a path."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [fields for fields in mounts if str(path).startswith(fields[1].rstrip("/") + "/")]
    return max(enumerate(inside), key=lambda one: (len(one[1][1]), one[0]))[1][2]
