"""The upload of a job: our packages, the study file and the user's methods, in one small folder that Ray sends to the cluster."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("search", "trainables", "spaces", "cluster")
MAX_MIB = 50  # data and weights stay on a path that the cluster can read
# patterns that no uploaded file may contain, because Ray's dashboard shows the files:
_SECRETS = {
    "a password in an address": re.compile(r"://[^\s:@'\"]+:[^\s@'\"]*@"),
    "a token in an address": re.compile(r"https?://[^\s/@'\"]+@"),
    "a secret in the query of an address": re.compile(
        r"://\S*[?&;]([\w.-]*(token|sig|signature|password|passwd|secret|credential)|[\w.-]*(access|api|secret)[_-]?key|x-amz-\w+)=",
        re.IGNORECASE,
    ),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access key": re.compile(
        r"\b(A[KS]IA[0-9A-Z]{16}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|xox[a-z]-[\w-]{10,}|"
        r"sk-[\w-]{20,}|dapi[0-9a-f]{32})\b"
    ),
    "a secret key": re.compile(r"(?i)(aws_)?secret(_access)?_key\W{1,4}[\w/+=]{16,}"),
}


def stage(folder: Path, files: Mapping[str, str]) -> None:
    """Fill an empty folder with our packages, their version metadata, and some text files.

    Args:
        folder: Existing empty folder; on the cluster it becomes the working directory of the job and of its workers.
        files: Text of each file, by its path in the folder.

    Raises:
        ValueError: If a file contains a secret, or the folder is too large.
    """
    for name, text in files.items():
        for what, pattern in _SECRETS.items():
            if (found := pattern.search(text)) is not None:
                line = text[: found.start()].count("\n") + 1
                raise ValueError(f"{name}, line {line}: {what} would be uploaded and shown; keep it in the cluster's environment")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    for package in PACKAGES:
        shutil.copytree(_source(package), folder / package, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    ours = distribution("paretune")
    known = folder / f"paretune-{ours.version}.dist-info"  # lets `importlib.metadata` find our version on the cluster
    known.mkdir()
    (known / "METADATA").write_text(ours.read_text("METADATA") or "")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    if size > MAX_MIB:
        raise ValueError(
            f"the upload has {size:.0f} MiB, at most {MAX_MIB} are allowed; keep data and weights on a path of the cluster"
        )


def requirements(*, postgres: bool = False) -> list[str]:
    """Return our packages' requirements, for a cluster whose machines lack them; with PostgreSQL's driver on request."""
    lines = [line.partition(";") for line in distribution("paretune").requires or ()]
    return [name.strip() for name, _, marker in lines if "extra" not in marker or (postgres and "postgres" in marker)]


def local_paths(study: Mapping[str, Any], storage: Path, shared: str | None = None) -> Iterator[str]:
    """Yield the entries of a study file that name a local path of this machine, which the cluster's nodes cannot read.

    Args:
        study: Resolved study file.
        storage: Folder that would hold the study.
        shared: Path or address that would hold its checkpoints; None for `storage`.
    """
    named = {
        "storage": str(storage) if shared is None or "://" in shared else shared,
        "data.path": study["data"].get("path"),
        "backbone.weights": study["backbone"].get("weights"),
    }
    for setting, path in named.items():
        if path and path != "random" and not Path(path).is_absolute():
            yield f"{setting}: {path} is a path of this machine; give an absolute one that every node of the cluster has"


def _source(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package} cannot be found; is Paretune installed here?")
    return Path(next(iter(spec.submodule_search_locations)))
