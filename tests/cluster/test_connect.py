"""The embedded cluster: loopback, as many slots as fit, a token of its user's only, and a clear word when none does."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("embedded_ray")


def test_as_many_slots_as_whole_trials_fit() -> None:
    from cluster.connect import slots

    assert slots(cpus_per_trial=1, gpus_per_trial=0) == 2
    assert slots(cpus_per_trial=2, gpus_per_trial=0) == 1


def test_a_trial_that_does_not_fit_is_refused_with_what_there_is() -> None:
    from cluster.connect import slots

    with pytest.raises(ValueError, match="asks for 3 CPUs, 0 GPUs of one node, the nodes have 2, 0 and"):
        slots(cpus_per_trial=3, gpus_per_trial=0)
    with pytest.raises(ValueError, match="ask for less"):
        slots(cpus_per_trial=1, gpus_per_trial=0.5)


def test_an_embedded_cluster_lives_on_loopback_without_a_dashboard() -> None:
    import psutil
    import ray

    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"
    assert not ray._private.worker.global_worker.node.address_info["webui_url"]
    other = [child for child in psutil.Process().children() if "start" in child.cmdline()]  # the head node of other tests
    not_ours = {process for head in other for process in [head, *head.children(recursive=True)]}
    ours = {psutil.Process(), *psutil.Process().children(recursive=True)} - not_ours
    listening = [
        connection.laddr.ip
        for process in ours
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 3
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_the_folder_of_an_embedded_cluster_is_private() -> None:
    import ray

    session = Path(ray._private.worker.global_worker.node.get_session_dir_path())
    assert session.stat().st_mode & 0o777 == 0o700


def test_an_embedded_cluster_starts_no_server_that_one_machine_has_no_use_for() -> None:
    import psutil

    started = [" ".join(child.cmdline()) for child in psutil.Process().children() if "start" not in child.cmdline()]
    assert any("raylet" in command for command in started)
    assert not [command for command in started if "monitor.py" in command or "dashboard.py" in command]


PROGRAM = """
import os, re, signal
from pathlib import Path
from cluster.connect import embedded

def caught():  # as the kernel sees it: Ray's C++ part changes signals behind Python's back
    mask = re.search(r"SigCgt:\\s+(\\w+)", Path("/proc/self/status").read_text())[1]
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)

signal.signal(signal.SIGTERM, lambda *_: None)
with embedded(n_cpus=1):
    from ray._private.node import Node

    end = Node.kill_all_processes
    Node.kill_all_processes = lambda node, *a, **k: (print("while Ray ends", caught()), end(node, *a, **k))
    print("mode", os.environ.get("RAY_AUTH_MODE"))
print("afterwards", caught())
"""


def test_an_embedded_cluster_leaves_a_private_token_the_handler_of_sigterm_and_nothing_else(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    with tempfile.TemporaryDirectory(prefix="pr", dir="/tmp") as temporary:  # a short path, for Ray's sockets
        known = environment | {"RAY_TMPDIR": temporary}
        done = subprocess.run(command, env=known, capture_output=True, text=True, check=False, umask=0o022)
        assert done.stdout.splitlines() == ["mode token", "while Ray ends True", "afterwards True"], done.stderr
        assert not list(Path(temporary).glob("ray/session_2*"))  # Ray's own folder is gone with it
    token = tmp_path / ".ray" / "auth_token"
    assert len(token.read_text()) >= 32
    assert [token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777] == [0o600, 0o700]
    assert list(token.parent.iterdir()) == [token]


def test_a_token_that_others_could_read_becomes_private_and_stays_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cluster.connect import make_token

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir(mode=0o755)
    token.write_text("as it was")
    token.chmod(0o644)
    make_token()
    assert token.read_text() == "as it was"
    assert [token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777] == [0o600, 0o700]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    token.unlink()
    make_token()
    assert not token.exists()
