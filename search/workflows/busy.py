"""The activity of other programs on this machine, which a measurement of time would include."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BUSY_CORES = 0.25  # from which on others disturb a measurement; a quiet machine has a few hundredths
_WATCHED_SECONDS = 0.5
_SEARCHES = ("run", "resume", "finalize", "suite", "rerun", "cost", "plan")  # commands that compute


@dataclass(frozen=True)
class Activity:
    """The activity of other programs.

    Attributes:
        busy_cores: Cores that were busy, on average.
        n_cores: Cores of the machine.
        searches: Other commands of Paretune that compute, each with its process.
    """

    busy_cores: float
    n_cores: int
    searches: tuple[str, ...] = ()

    @property
    def disturbs(self) -> bool:
        """True if a measurement of time would include it."""
        return self.busy_cores >= BUSY_CORES or bool(self.searches)

    def __str__(self) -> str:
        return "; ".join([f"{self.busy_cores:.1f} of {self.n_cores} cores are busy", *self.searches])


def watch(seconds: float = _WATCHED_SECONDS) -> Activity | None:
    """Watch this machine while this process waits; return None on a system without `/proc`."""
    stat = Path("/proc/stat")
    try:
        before = stat.read_text()
        time.sleep(seconds)
        return Activity(*busy_cores(before, stat.read_text()), tuple(_searches()))
    except (OSError, ValueError, IndexError):
        return None


def busy_cores(before: str, after: str) -> tuple[float, int]:
    """Return the cores that were busy between two readings of `/proc/stat`, and all cores."""
    then, now = _ticks(before), _ticks(after)
    n_cores = sum(line.startswith("cpu") for line in after.splitlines()) - 1
    spent = [b - a for a, b in zip(then, now, strict=True)]
    total = sum(spent)
    idle = spent[3] + spent[4]  # with waiting for a disk
    return (n_cores * (1 - idle / total) if total > 0 else 0.0), n_cores


def _ticks(stat: str) -> list[int]:
    """Return the times of all cores together: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(word) for word in stat.splitlines()[0].split()[1:9]]


def _searches() -> Iterator[str]:
    mine = {os.getpid(), *_ancestors(os.getpid())}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has just ended
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if int(folder.name) not in mine and (command := _command(words)) is not None:
                yield f"paretune {command} is at work (process {folder.name})"


def _command(words: Sequence[str]) -> str | None:
    """Return the command of Paretune that a command line is and that computes; None for another one."""
    starts = [n for n, word in enumerate(words) if word == "search.cli" or word.endswith("/paretune")]
    return next((word for word in words[starts[0] + 1 :] if word in _SEARCHES), None) if starts else None


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            return
        yield pid
