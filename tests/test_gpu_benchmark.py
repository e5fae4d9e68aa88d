"""The benchmark for GPUs, in its small form on a CPU: every branch that a CPU can run, and the page that says what was not run."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu() -> Iterator[Any]:
    before = list(sys.path)
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("benchmarks.gpu")
    finally:
        sys.path[:] = before
        torch.compiler.reset()


@pytest.fixture(scope="module")
def sections(gpu: Any) -> Any:
    return importlib.import_module("benchmarks.gpu_sections")


@pytest.fixture(scope="module")
def found(gpu: Any, sections: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """The files of all sections, each with ten times its seconds: a busy CPU is slow."""
    to = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        for name, (function, budget) in list(sections.SECTIONS.items()):
            patch.setitem(sections.SECTIONS, name, (function, 10 * budget))
        gpu.main(["--device", "cpu", "--small", "--in-process", "--to", str(to)])
    assert sorted(path.name for path in to.iterdir()) == ["gpu-cpu.json", "gpu-cpu.md"]
    return json.loads((to / "gpu-cpu.json").read_text()), (to / "gpu-cpu.md").read_text()


def test_every_section_runs_on_a_cpu(found: tuple[dict[str, Any], str], sections: Any) -> None:
    status = {one["section"]: (one["status"], one.get("why")) for one in found[0]["sections"]}
    assert list(status) == list(sections.SECTIONS)
    assert [name for name, (state, _) in status.items() if state != "done"] == [], status
    kept = {row["adapted"]: row for row in next(one["rows"] for one in found[0]["sections"] if one["section"] == "prefix")}
    assert kept["head only"]["kept, times as fast"] > 2
    [alone, two] = next(one["rows"] for one in found[0]["sections"] if one["section"] == "shares")
    assert alone["times one after the other"] == 1
    assert two["images/s, all together"] > 0
    assert sum(budget for _, budget in sections.SECTIONS.values()) < 360


def test_every_method_is_compared_and_equal_to_itself(found: tuple[dict[str, Any], str], sections: Any) -> None:
    rows = found[0]["sections"][0]["rows"]
    assert [row["method"] for row in rows] == list(sections.METHODS)
    assert all(row["equal"] for row in rows), rows


def test_the_speeds_the_operations_and_the_targets_are_stated(found: tuple[dict[str, Any], str]) -> None:
    rows = {row["arm"]: row for row in found[0]["sections"][1]["rows"]}
    assert {"floor", "lora", "arc", "lily", "clora"} < rows.keys()
    assert rows["floor"]["floor's time"] == 1
    assert rows["lily"]["GFLOP per image"] > rows["lora"]["GFLOP per image"] > 0
    assert rows["lora"]["MFU"] is None  # a CPU has no number to divide by
    assert rows["lora reaches 4,000 images/s"]["met"] in (True, False)


def test_the_page_says_what_was_not_run_before_it_says_anything_else(found: tuple[dict[str, Any], str]) -> None:
    page = found[1]
    first, after = page.split("## equality", 1)
    assert "- trunk: CUDA graphs: not run" in first
    assert "Its numbers say nothing about a GPU" in first
    assert "| lora | yes | 0 |" in after


def test_a_stored_trunk_is_what_autocast_casts_and_trained_weights_stay_float32(sections: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    model[0].requires_grad_(False)
    inputs = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(inputs)
        sections.store_in_bfloat16(model)
        assert torch.equal(model(inputs), before)
    assert [str(parameter.dtype) for parameter in model.parameters()] == ["torch.bfloat16"] * 2 + ["torch.float32"] * 4


def test_a_difference_is_seen(sections: Any) -> None:
    here = {"logits": torch.tensor([1.0, -4.0]), "a": torch.tensor([0.5])}
    assert sections.largest_difference(here, here) == 0
    assert sections.largest_difference(here, here | {"logits": torch.tensor([1.0, -3.9])}) == pytest.approx(0.025)
    assert sections.largest_difference(here, {"logits": here["logits"]}) == float("inf")


def test_a_section_that_fails_or_has_no_time_is_recorded_and_the_next_one_runs(
    gpu: Any, sections: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(setup: Any) -> list[dict[str, Any]]:
        raise RuntimeError("CUDA error:\n an illegal memory access")

    def partly(setup: Any) -> list[dict[str, Any]]:
        raise sections.NotRun("no time was left", [{"arm": "a", "value": 1.0}])

    monkeypatch.setitem(sections.SECTIONS, "equality", (broken, 5.0))

    def nothing(setup: Any) -> list[dict[str, Any]]:
        raise sections.NotRun("it is not written", [])

    monkeypatch.setitem(sections.SECTIONS, "speed", (partly, 5.0))
    monkeypatch.setitem(sections.SECTIONS, "prefix", (nothing, 5.0))
    names = ["equality", "speed", "prefix"]
    found = gpu.everything(names, "cpu", tmp_path, small=True, apart=False)
    assert [one["status"] for one in found] == ["failed", "partly run", "not run"]
    page = (tmp_path / "gpu-cpu.md").read_text()
    assert "- equality: failed: RuntimeError: CUDA error: an illegal memory access" in page
    assert "| a | 1 |" in page
    assert "- trial: not asked for" in page
    [late] = gpu.everything(["trial"], "cpu", tmp_path, small=True, apart=False, seconds_of_all=0.0)
    assert (late["status"], late["why"]) == ("not run", "0 s were over")


def test_a_process_that_takes_too_long_or_fails_is_a_failed_section(gpu: Any) -> None:
    ended = gpu.run_apart("prefix", "cpu", 0.0, small=True, starting=0.05)
    assert (ended["status"], ended["why"]) == ("failed", "ended after 0 s")


@pytest.mark.slow
def test_a_section_runs_in_a_process_of_its_own(gpu: Any) -> None:
    failed = gpu.run_apart("prefix", "no device", 30.0, small=True, starting=60.0)
    assert failed["status"] == "failed"
    assert "no device" in failed["why"]


def test_without_a_gpu_only_the_small_form_starts(gpu: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["--device", "cpu"])
    assert "--device cpu --small" in capsys.readouterr().err
