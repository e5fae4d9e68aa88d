"""Nodes come and go while a study searches: nothing is lost, and what comes is used."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Sequence

import pytest
import yaml

from search.results.saved_study import SavedStudy, load
from search.trial import State

from .conftest import Head
from .watching import n_at_work, sleeping, wait_until

N_TRIALS, EPOCHS = 10, 6


def test_a_node_without_the_storage_ends_the_search_with_its_name_and_nothing_lost(head: Head) -> None:
    study = sleeping("blind", 4, 40, 1.0)
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(head.storage)]
    head.storage.mkdir(exist_ok=True)
    if subprocess.run([*hidden, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs mount name spaces")
    (head.storage / "blind.yaml").write_text(yaml.safe_dump(study))
    driver = head.paretune_on_node("run", str(head.storage / "blind.yaml"), "--storage", str(head.storage))
    try:
        folder = head.storage / "blind"
        wait_until(lambda: driver.poll() is not None or n_at_work(folder) == 2)
        with head.another_node(*hidden):
            printed, _ = driver.communicate(timeout=240)
    finally:
        driver.kill()
    assert driver.returncode == 2, printed
    assert re.search(rf"storage: node [0-9.]+/[0-9a-f]{{6}} has no {folder};", printed)
    assert [trial.state for trial in load(folder).history] == [State.RUNNING] * 3  # the one there has not failed


def most_at_once(spans: Sequence[tuple[float, float]], *, after: float) -> int:
    """How many trials trained at one time."""
    changes = sorted(itertools.chain.from_iterable([(max(a, after), 1), (b, -1)] for a, b in spans if b > after))
    return max(itertools.accumulate(change for _, change in changes))


def spans_of(saved: SavedStudy) -> list[tuple[float, float]]:
    """From the first to the last report of each trial."""
    times: dict[int, list[float]] = {}
    for report in saved.epochs:
        times.setdefault(report.trial, []).append(report.time)
    return [(min(seen), max(seen)) for seen in times.values()]
