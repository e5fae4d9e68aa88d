"""A program of its own that finds the standard library and the named distributions, as in a new virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

CLONE = Path(__file__).parents[3]


def closure(names: Iterable[str]) -> set[str]:
    """The distributions and everything that they require, without extras."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        try:
            required = distribution(name).requires or []
        except PackageNotFoundError:  # of another platform
            continue
        if name not in found:
            found.add(name)
            needed = map(Requirement, required)
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def run_alone(program: str, *libraries: str, ours: Iterable[str] = (), folder: Path) -> str:
    """Run a program in a folder, with these libraries and our packages named in `ours`; return its output."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    for old in site.iterdir():
        old.unlink()
    for name in closure(libraries) - {"paretune"}:
        held = distribution(name)
        for top in {file.parts[0] for file in held.files or () if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(held.locate_file(top))
    for package in ours:
        (site / package).symlink_to(CLONE / package)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-S", "-c", program]  # no site-packages
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout
