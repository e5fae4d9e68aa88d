"""A worker that was thought lost writes nothing more once another one has its trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainables.workers.ray_tune import TuneTrial

from ...search.studies import study_file
from ..data.pictures import image_folder


def reported(worker: TuneTrial) -> dict[str, Any]:
    """What the driver hears after an epoch."""
    found: dict[str, Any] = json.loads(worker.step()["report"])
    return found


def test_of_two_workers_of_a_trial_the_older_one_stops_at_its_next_epoch(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "0003"
    config = study_file().joint_space().default("lora")
    order = {"make": study_file().worker(), "trial": 3, "config": config, "seed": 0, "epochs": 4, "fold": 0}
    lost = TuneTrial(order | {"reported": 0, "folder": folder})
    assert reported(lost)["epoch"] == 1
    following = TuneTrial(order | {"reported": 1, "folder": folder})  # the node of the first one was cut off
    assert reported(following)["epoch"] == 2
    assert reported(lost) == {"trial": 3, "stopped": True}
    assert reported(following)["epoch"] == 3
    assert json.loads((folder / "epoch.json").read_text()) == {"epoch": 3}


def test_a_node_that_joins_with_other_images_refuses_its_trial(tmp_path: Path) -> None:
    image_folder(tmp_path / "set")
    data: dict[str, Any] = {"kind": "imagefolder", "path": str(tmp_path / "set")}
    order = {
        "trial": 0,
        "config": {"method": "head_only"},
        "seed": 0,
        "epochs": 1,
        "reported": 0,
        "fold": 0,
        "folder": tmp_path / "s" / "0",
    }
    begun = TuneTrial({"make": {"backbone": {"name": "vit_glyphs"}, "data": data | {"digest": "another"}, "recipe": {}}} | order)
    assert "is not what it was when the study began" in reported(begun)["changed"]
