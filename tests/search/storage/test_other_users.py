"""Another user of the machine sees no process of the owner where /proc hides them (`hidepid=2`, usual on shared clusters)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.storage.sql_ledger import SqlLedger

NOBODY = 65534
HIDDEN = ["unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$@"', "sh"]
ASK = f"""
import os, sys, tempfile
from pathlib import Path
from search.errors import OwnedElsewhere
from search.storage.sql_ledger import SqlLedger
with tempfile.TemporaryDirectory() as own:  # this imports everything, before the rights to read it are given up
    SqlLedger.create(Path(own) / "ledger.db", name="s", file={{}}, facts={{}}).close()
os.setgid({NOBODY}), os.setuid({NOBODY})
assert not Path(f"/proc/{{sys.argv[2]}}").exists()
with SqlLedger.open(Path(sys.argv[1])) as ledger:
    print(ledger.owner())
    try:
        ledger.claim()
    except OwnedElsewhere:
        print("refused")
    else:
        print("claimed")
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may write."""
    folder = Path(tempfile.mkdtemp(prefix="shared-", dir="/tmp"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def as_nobody(ledger: Path) -> list[str]:
    if os.geteuid() != 0 or subprocess.run([*HIDDEN, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root, to become another user who sees no process of ours")
    for file in ledger.parent.iterdir():
        file.chmod(0o666)
    asked = subprocess.run(
        [*HIDDEN, sys.executable, "-c", ASK, str(ledger), str(os.getpid())],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    return asked.stdout.splitlines()


def test_a_driver_whose_process_cannot_be_seen_is_alive_as_long_as_its_heart_beats(shared: Path) -> None:
    with SqlLedger.create(shared / "ledger.db", name="s", file={}, facts={}) as ledger:
        over = threading.Event()

        def beat() -> None:
            while not over.wait(0.1):
                ledger.beat()

        heart = threading.Thread(target=beat)
        heart.start()
        try:
            seen = as_nobody(ledger.path)
        finally:
            over.set()
            heart.join()
        assert seen == [f"process {os.getpid()} on {os.uname().nodename}", "refused"]
        with ledger.decision():
            pass  # and the study is still its own


def test_a_driver_that_has_died_is_known_to_be_dead_at_once_by_everybody(shared: Path) -> None:
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, sys\nfrom pathlib import Path\nfrom search.storage.sql_ledger import SqlLedger\n"
            "SqlLedger.create(Path(sys.argv[1]), name='s', file={}, facts={})\nos._exit(0)",
            str(shared / "ledger.db"),
        ],
        check=True,
        timeout=240,
    )
    assert child.returncode == 0
    assert as_nobody(shared / "ledger.db") == ["None", "claimed"]
