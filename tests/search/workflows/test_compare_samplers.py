"""Samplers side by side: every course is the course of a search of its own."""

import json
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

from search.backends import simulated
from search.backends.simulated import Replay, VirtualClock
from search.config.study_file import StudyFile
from search.workflows import compare_samplers
from search.workflows.compare_samplers import HypervolumeCurve
from trainables.simulated.surfaces import Surface, SurfaceTrainable

from .. import command_line, studies

SURFACE = Surface("valley")
REPLAY = Replay(SURFACE, lambda: SurfaceTrainable(SURFACE), None)


def study_file(**search: object) -> StudyFile:
    return studies.study_file(
        data={"kind": "synthetic", "surface": "valley"},
        methods=["lora", "arc"],
        budget={"n_trials": 20, "epochs": 9, "max_params": 50_000},
        search={"sampler": "auto", "rungs": {"grace": 1, "factor": 3}} | search,
    )


@pytest.fixture(scope="module")
def found() -> dict[str, list[HypervolumeCurve]]:
    return compare_samplers.hypervolume_curves(study_file(), REPLAY, ["random"], n_seeds=2)


@pytest.mark.parametrize(("sampler", "rungs"), [("auto", {"grace": 1, "factor": 3}), ("random", None)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_course_ends_where_the_same_search_alone_ends(
    found: dict[str, list[HypervolumeCurve]], sampler: str, rungs: object, seed: int
) -> None:
    clock = VirtualClock()
    alone = simulated.create(study_file(sampler=sampler, rungs=rungs, seed=seed), SURFACE, clock)
    simulated.run(alone, REPLAY.make, clock, n_workers=1)
    course = found[sampler][seed]
    assert course.hypervolume[-1] == alone.hypervolume()
    assert course.epochs[-1] <= sum(trial.epochs for trial in alone.trials)
    assert course.epochs[0] == 9  # head-only, which is trained to the end
    assert [*course.epochs] == sorted(course.epochs)
    assert [*course.hypervolume] == sorted(course.hypervolume)


def test_a_course_is_a_staircase_from_head_only_to_the_best() -> None:
    course = HypervolumeCurve([3, 5, 6], [1.0, 2.0, 3.0])
    assert course.share(np.arange(8), best=5.0).tolist() == [0, 0, 0, 0, 0, 0.25, 0.5, 0.5]


def test_a_share_is_reached_at_the_first_step_that_is_as_high() -> None:
    courses = [HypervolumeCurve([3, 5], [1.0, 2.0]), HypervolumeCurve([4], [1.0])]
    assert [course.until(0.5, 3.0) for course in courses] == [5.0, np.inf]
    assert [course.until(0.5, 2.0) for course in courses] == [5.0, np.inf]
    assert compare_samplers.best({"a": courses[:1], "b": courses[1:]}) == 2.0


def test_the_command_prints_medians_and_draws(tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    done = paretune("--against", "random", "--seeds", "3", "--picture", str(picture), "--json", "--set", "budget.n_trials=8")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["epochs_until"].keys() == {"auto", "random"}
    assert printed["n_seeds"] == 3
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "law"),
    [
        (["--against", "luck"], "--against luck: no such sampler; choose one of auto, tpe"),
        (["--against", "auto"], "--against auto: this is the study's own sampler"),
        (["--against", "random", "--picture", "nowhere/a.png"], "--picture nowhere/a.png: name a .png or .svg file"),
        (["--picture", "a.png"], "--picture draws a comparison; name a sampler with --against"),
    ],
)
def test_what_cannot_be_compared_is_said(options: list[str], law: str) -> None:
    done = paretune(*options)
    assert done.returncode == 2
    assert law in " ".join(done.stderr.split())


def paretune(*options: str) -> CompletedProcess[str]:
    return command_line.paretune("simulate", "digits", *options, cwd=Path.cwd())
