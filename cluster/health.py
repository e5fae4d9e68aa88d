"""Health checks of this machine and of every node of its cluster: everything that a search needs."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cluster.nodes import on_each
from cluster.upload import PACKAGES

# Older versions have known vulnerabilities: Ray ran code in Parquet files, MLflow leaked files, torch's loader ran pickles.
FLOORS = {"ray": "2.56", "mlflow": "3.17", "torch": "2.10"}
_TOLD = ("paretune", "ray", "torch", "timm", "optuna", "mlflow", "pyarrow", "sqlalchemy")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: Name of the check.
        good: True if the check passed.
        found: Actual value.
        remedy: Remedy of a failed check, empty if it passed.
    """

    what: str
    good: bool
    found: str
    remedy: str = ""


def here() -> dict[str, Any]:
    """Describe this machine: Python, versions, location of our packages, GPUs. It imports none of the large libraries."""
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _TOLD},
        "packages": {name: _place(name) for name in PACKAGES},
        "gpus": _gpus(),
    }


def machine(found: Mapping[str, Any]) -> Iterator[Finding]:
    """Check whether a machine can run a search.

    Args:
        found: Result of `here` on that machine.
    """
    python = tuple(int(part) for part in found["python"].split(".")[:2])
    yield Finding("python", python >= (3, 11), found["python"], "" if python >= (3, 11) else "install Python 3.11 or newer")
    for name, has in found["versions"].items():
        floor = FLOORS.get(name)
        if has is None:
            yield Finding(
                name,
                False,
                "not installed",
                "install Paretune there (its wheel, or `pip install .` in a clone), or submit with --pip",
            )
        elif floor is not None and _numbers(has) < _numbers(floor):
            yield Finding(name, False, has, f"known vulnerabilities below {floor}: pip install '{name}>={floor}'")
        else:
            yield Finding(name, True, has)
    homes = {str(Path(place).parent) if place else "nowhere" for place in found["packages"].values()}
    ours = len(homes) == 1 and "nowhere" not in homes
    remedy = f"one of {', '.join(PACKAGES)} is another project's package of that name; use an environment of Paretune's own"
    yield Finding("our packages", ours, ", ".join(sorted(homes)), "" if ours else remedy)
    yield Finding("GPUs", True, ", ".join(found["gpus"]) or "none")


class ObjectStore(Protocol):
    """A folder that is not a local path but a prefix in an object store."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if it does not exist."""

    def write(self, name: str, blob: bytes) -> None:
        """Create a file."""

    def delete(self, name: str) -> None:
        """Delete a file."""


def storage(folder: Path | ObjectStore) -> Finding:
    """Check whether studies can be written to a folder. The test file is deleted."""
    remedy = "grant access or free space, or choose another with --storage"
    if not isinstance(folder, Path):
        remedy = "give this machine credentials and AWS_ENDPOINT_URL (docs/cluster.md), or choose another with --storage"
    try:
        name = _leave(folder)
        found = _finds(folder, name)
        _remove(folder, name)
    except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
        return Finding("storage", False, f"{folder}: {_reason(error)}", remedy)
    if not isinstance(folder, Path):
        return Finding("storage", found, f"{folder}" if found else f"{folder} loses written files", "" if found else remedy)
    free = shutil.disk_usage(folder).free / 2**30
    return Finding("storage", True, f"{folder}, {free:,.1f} GiB free")


def tracking(uri: str) -> Finding:
    """Check whether an MLflow server answers; a database is not checked before it is used.

    Args:
        uri: Value of `MLFLOW_TRACKING_URI`, without secrets.
    """
    if not uri.startswith(("http://", "https://")):
        return Finding("MLflow", True, uri)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10) as answer:  # noqa: S310 - http only, see above
            return Finding("MLflow", answer.status == 200, f"{uri} answers {answer.status}")
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        return Finding("MLflow", False, f"{uri}: {reason}", "start the server, or unset MLFLOW_TRACKING_URI")


def nodes(folder: Path | ObjectStore) -> Iterator[Finding]:
    """Check that every node of the connected cluster has this node's packages and sees the same storage.

    Args:
        folder: Folder of the studies; a test file is written for the other nodes to read, and deleted afterwards.
    """
    mine = here()
    trace = _leave(folder)
    try:
        for name, found in on_each(_there, folder, trace).items():
            yield _compared(name, found, mine, folder)
    finally:
        _remove(folder, trace)


def odd_nodes(folder: Path | ObjectStore) -> list[Finding]:
    """Return the nodes that would break a search kept in `folder`; a single node has every path that this process has."""
    import ray

    if isinstance(folder, Path) and sum(bool(node["Alive"]) for node in ray.nodes()) < 2:
        return []
    return [finding for finding in nodes(folder) if not finding.good]


def _there(folder: Path | ObjectStore, trace: str) -> dict[str, Any]:
    """Run the checks on a node."""
    sees = writes = False
    with suppress(OSError, ValueError):
        sees = _finds(folder, trace)
        _remove(folder, _leave(folder, make=False))
        writes = True
    return here() | {"sees": sees, "writes": writes}


def _leave(folder: Path | ObjectStore, *, make: bool = True) -> str:
    """Write an empty file and return its name. A missing folder is created, or reported by an OSError."""
    name = f".paretune-{uuid.uuid4().hex[:8]}"
    if not isinstance(folder, Path):
        folder.write(name, b"")
    else:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return name


def _finds(folder: Path | ObjectStore, name: str) -> bool:
    return (folder / name).exists() if isinstance(folder, Path) else folder.read(name) is not None


def _remove(folder: Path | ObjectStore, name: str) -> None:
    folder.delete(name) if not isinstance(folder, Path) else (folder / name).unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:300]


def _compared(name: str, found: dict[str, Any] | str, mine: Mapping[str, Any], folder: Path | ObjectStore) -> Finding:
    what = f"node {name}"
    if isinstance(found, str):
        return Finding(what, False, found, "install Paretune there, or submit with --pip")
    bad = [finding for finding in machine(found) if not finding.good]
    if bad:
        return Finding(what, False, f"{bad[0].what}: {bad[0].found}", bad[0].remedy)
    for package, has in found["versions"].items():
        if has != mine["versions"][package]:
            remedy = "give all nodes one environment (an image, or submit --pip)"
            return Finding(what, False, f"{package} {has}, here {mine['versions'][package]}", remedy)
    if not (found["sees"] and found["writes"]):
        missing = "cannot write to" if found["sees"] else "does not see"
        remedy = "choose a path with --storage that all nodes share (docs/cluster.md)"
        if not isinstance(folder, Path):
            remedy = "give it the credentials and the AWS_ENDPOINT_URL of the object store (docs/cluster.md)"
        return Finding(what, False, f"{missing} {folder}", remedy)
    gpus = f", {len(found['gpus'])} GPU" if found["gpus"] else ""
    return Finding(what, True, f"as here, sees {folder}{gpus}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+", maxsplit=1)[0].split(".")[:2] if part.isdigit())


def _place(package: str) -> str | None:
    loaded = sys.modules.get(package)
    spec = getattr(loaded, "__spec__", None) or find_spec(package)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent)


def gpu_memory() -> list[str]:
    """Return the used memory of each GPU of this machine, as the driver reports it: `1234 MiB, 81559 MiB`."""
    return _nvidia("memory.used,memory.total")


def gpu_memory_of_all() -> list[str]:
    """Return the used memory of each GPU of the connected cluster, by node: `10.0.0.2/a1b2c3: 1234 MiB, 81559 MiB`."""
    told = on_each(gpu_memory, with_gpus=True)
    return [f"{node}: {gpu}" for node, gpus in told.items() for gpu in ([gpus] if isinstance(gpus, str) else gpus)]


def _gpus() -> list[str]:
    return _nvidia("name")


def _nvidia(query: str) -> list[str]:
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    command = [tool, f"--query-gpu={query}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
