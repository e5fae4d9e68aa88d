"""A real Slurm on this machine: Debian's daemons, with a configuration, ports and a key of their own.

Of two nodes: the second is in a network name space, at an address of its own. Of one where name spaces cannot be made.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import free_ports
from .watching import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "ip")
FIRST, SECOND = "10.77.32.1", "10.77.32.2"
CONFIGURATION = """
ClusterName=paretune
SlurmctldHost={host}({first})
SlurmctldPort={controller}
SlurmUser=root
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
KillWait=2
FirstJobId={first_job}
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A cluster that takes jobs.

    Attributes:
        nodes: Their names.
        environment: What Slurm's commands find in theirs.
    """

    nodes: Sequence[str]
    environment: dict[str, str]

    def __call__(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, ..."""
        return self("scontrol", "show", "job", job).partition("JobState=")[2].split()[0]


@contextlib.contextmanager
def slurm() -> Iterator[Slurm]:
    """A cluster that is gone, with all its jobs, at the end of the block.

    The folder's path is short, for the sockets in it.
    """
    missing = [program for program in PROGRAMS if shutil.which(program) is None] + ["root"] * bool(os.geteuid())
    if missing and os.environ.get("CI"):
        pytest.fail(f"a runner that says it is CI has {', '.join(missing)}; .ci/run installs Slurm")
    if missing:
        pytest.skip(f"needs Slurm's daemons: {', '.join(missing)} not found")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ps", dir="/tmp", ignore_cleanup_errors=True)))
        elsewhere = stack.enter_context(_another_network())
        addresses = {"first": FIRST if elsewhere else "127.0.0.1"} | ({"second": SECOND} if elsewhere else {})
        controller, *ports = free_ports(1 + len(addresses))
        _configure(folder, addresses, controller, ports)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PARETUNE_", "MLFLOW_"))}
        environment |= {"SLURM_CONF": str(folder / "slurm.conf"), "RAY_TMPDIR": str(folder)}

        def daemon(name: str, *words: str) -> None:
            with (folder / f"{name}.log").open("w") as log:
                process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)

        key = [f"--{word}={folder}/munge.{word[:3]}" for word in ("key-file", "pid-file", "log-file", "seed-file")]
        daemon("munge", "munged", "--foreground", "--force", f"--socket={folder}/munge", *key)
        wait_until((folder / "munge").exists, 30)
        daemon("controller", "slurmctld", "-D", "-i")
        for name, there in zip(addresses, ([], elsewhere), strict=False):
            daemon(name, *there, "slurmd", "-D", "-N", name)
        made = Slurm(tuple(addresses), environment)
        stack.callback(_end, made, folder)
        wait_until(lambda: made("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * len(addresses))
        yield made


def _configure(folder: Path, addresses: dict[str, str], controller: int, ports: Sequence[int]) -> None:
    host, first = socket.gethostname().partition(".")[0], addresses["first"]
    nodes = "\n".join(
        f"NodeName={name} NodeAddr={address} Port={port} CPUs=2 Gres=gpu:1"
        for (name, address), port in zip(addresses.items(), ports, strict=True)
    )
    known = {"host": host, "first": first, "controller": controller, "folder": folder, "nodes": nodes, "first_job": os.getpid()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**known))
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")  # any device will do
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # which is not used; not to be looked for either
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    for name in ("state", *addresses):
        (folder / name).mkdir()


@contextlib.contextmanager
def _another_network() -> Iterator[list[str]]:
    """A name space at the other end of a cable: the words behind which a command runs there; none where it cannot be made."""
    name, here, there = (f"{word}{os.getpid()}" for word in ("slurm-", "psh", "psn"))
    link = f"link add {here} type veth peer name {there} netns {name}"
    mine = f"addr add {FIRST}/30 dev {here}", f"link set {here} up"
    its = f"-n {name} addr add {SECOND}/30 dev {there}", f"-n {name} link set {there} up", f"-n {name} link set lo up"
    try:
        made = all(_ip(words) for words in (f"netns add {name}", link, *mine, *its))
        yield ["nsenter", f"--net=/run/netns/{name}"] if made else []
    finally:
        for words in (f"netns del {name}", f"link del {here}"):
            _ip(words)


def _ip(words: str) -> bool:
    return subprocess.run(["ip", *words.split()], capture_output=True, check=False).returncode == 0


def _end(cluster: Slurm, folder: Path) -> None:
    """Slurm ends what its jobs have started; what it cannot track is known by its folder."""
    import psutil

    with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
        cluster("scancel", "--user=root")
        wait_until(lambda: not cluster("squeue", "--noheader"))
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()) and process.pid != os.getpid():
            process.kill()
