"""A worker that was thought lost writes nothing more once another one has its trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainables.workers.ray_tune import TuneTrial

from ...search.studies import study_file


def reported(worker: TuneTrial) -> dict[str, Any]:
    """What the driver hears after an epoch."""
    found: dict[str, Any] = json.loads(worker.step()["report"])
    return found


def test_of_two_workers_of_a_trial_the_older_one_stops_at_its_next_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "0003"
    config = study_file().joint_space().default("lora")
    order = {"make": study_file().worker(), "trial": 3, "config": config, "seed": 0, "epochs": 4}
    lost = TuneTrial(order | {"reported": 0, "folder": folder})
    assert reported(lost)["epoch"] == 1
    following = TuneTrial(order | {"reported": 1, "folder": folder})  # the node of the first one was cut off
    assert reported(following)["epoch"] == 2
    assert reported(lost) == {"trial": 3, "stopped": True}
    assert reported(following)["epoch"] == 3
    assert json.loads((folder / "epoch.json").read_text()) == {"epoch": 3}
