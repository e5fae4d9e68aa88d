"""What a job takes along: our packages and the study file, in one small folder that Ray sends to the cluster."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("search", "trainables", "spaces", "cluster")
MAX_MIB = 50  # data and weights stay where the cluster can read them
# What no file that travels, and that Ray's dashboard shows, should hold:
_SECRETS = {
    "a password in an address": re.compile(r"://[^/\s:@]+:[^/\s@]+@"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access key": re.compile(r"\b(AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,})\b"),
}


def stage(folder: Path, files: Mapping[str, str]) -> None:
    """Fill an empty folder with our packages, what tells their version, and some text files.

    Args:
        folder: Exists and is empty; on the cluster it becomes the working folder of the job and of its workers.
        files: Name to text.

    Raises:
        ValueError: if a file holds a secret, or the whole is too large.
    """
    for name, text in files.items():
        for what, pattern in _SECRETS.items():
            if (found := pattern.search(text)) is not None:
                line = text[: found.start()].count("\n") + 1
                raise ValueError(f"{name}, line {line}: {what} would be sent and shown; keep it in the cluster's environment")
        (folder / name).write_text(text)
    for package in PACKAGES:
        shutil.copytree(_source(package), folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    ours = distribution("paretune")
    known = folder / f"paretune-{ours.version}.dist-info"  # so that `importlib.metadata` knows our version there, too
    known.mkdir()
    (known / "METADATA").write_text(ours.read_text("METADATA") or "")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    if size > MAX_MIB:
        raise ValueError(f"{size:.0f} MiB would be sent, at most {MAX_MIB} may; keep data and weights on a path of the cluster")


def requirements(*, postgres: bool = False) -> list[str]:
    """What our packages need, for a cluster whose machines have none of it; with the driver of PostgreSQL if asked."""
    lines = [line.partition(";") for line in distribution("paretune").requires or ()]
    return [name.strip() for name, _, marker in lines if "extra" not in marker or (postgres and "postgres" in marker)]


def local_paths(study: Mapping[str, Any], storage: Path, shared: str | None = None) -> Iterator[str]:
    """The places in a study file that name a path of this machine; every node of the cluster must find what is named.

    Args:
        study: Resolved.
        storage: Where the study would lie.
        shared: Where its checkpoints would, if elsewhere: a path or an address.
    """
    named = {
        "storage": str(storage) if shared is None or "://" in shared else shared,
        "data.path": study["data"].get("path"),
        "backbone.weights": study["backbone"].get("weights"),
    }
    for place, path in named.items():
        if path and path != "random" and not Path(path).is_absolute():
            yield f"{place}: {path} is a path of this machine; give an absolute one that every node of the cluster has"


def _source(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package} is not to be found; is Paretune installed here?")
    return Path(next(iter(spec.submodule_search_locations)))
