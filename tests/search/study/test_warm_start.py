"""A study that begins with points, or with what others have found."""

import json
from pathlib import Path

import pytest

from search.backends import in_process
from search.errors import StudyFileError
from search.results import arrow_tables
from search.results.saved_study import load
from search.storage.sql_ledger import SqlLedger
from search.study.study import Study
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from ..studies import new_study, next_trial

pytestmark = pytest.mark.slow

RAW = {
    "data": {"kind": "synthetic"},
    "methods": ["lora", "arc"],
    "budget": {"n_trials": 16, "epochs": 2, "max_params": 20_000},
}


def made(storage: Path, name: str, **search: object) -> Study:
    return new_study(storage, **RAW | {"study": name, "search": search})


@pytest.mark.parametrize(("sampler", "first"), [("random", ["head_only", "lora", "arc"]), ("auto", ["head_only"])])
def test_points_are_filled_up_from_the_defaults_and_tried_after_them_or_before_the_start(
    tmp_path: Path, sampler: str, first: list[str]
) -> None:
    points = [{"method": "arc", "arc.rank": 5}, {"method": "lora", "lora.rank": 1, "optim.lr": 0.002}]
    study = made(tmp_path, "s", sampler=sampler, points=points)
    asked = [trial.config for trial in (study.ask() for _ in range(len(first) + 2)) if trial is not None]
    assert [config["method"] for config in asked] == [*first, "arc", "lora"]
    space = study.file.joint_space()
    assert asked[-2:] == [space.default(str(point["method"])) | point for point in points]


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"method": "lily"}, r"search.points\[0\]: its method must be one of lora, arc, got 'lily'"),
        ({"method": "arc", "lora.rank": 1}, "lora.rank is not a knob of arc"),
        ({"method": "arc", "arc.rank": 3.5}, "arc.rank = 3.5 is not a value in the space"),
    ],
)
def test_a_point_outside_the_space_is_refused(tmp_path: Path, point: dict[str, object], message: str) -> None:
    with pytest.raises(StudyFileError, match=message):
        made(tmp_path, "s", points=[point])


@pytest.mark.parametrize(("sampler", "source"), [("auto", ""), ("tpe", "trials.parquet")])
def test_a_study_tries_the_front_of_another_and_repeats_none_of_its_other_trials(tmp_path: Path, sampler: str, source: str) -> None:
    teacher = made(tmp_path, "teacher", sampler="auto")
    in_process.run(teacher, SyntheticTrainable())
    teacher.close()
    saved = load(tmp_path / "teacher")
    arrow_tables.write_parquet(arrow_tables.trials_arrow(saved.history, study=saved.row), saved.folder / "trials.parquet")
    front = [trial.config for trial in saved.members if trial.config["method"] != "head_only"]
    pupil = made(tmp_path, "pupil", sampler=sampler, learn_from=[str(tmp_path / "teacher" / source)])
    n_first = 3 + len(
        [config for config in front if config not in [teacher.file.joint_space().default(m) for m in ("lora", "arc")]]
    )
    while len(pupil.trials) < n_first:
        trial = next_trial(pupil)
        pupil.tell(trial.number, trial.state.FAILED, "only looked at")
    assert all(config in [trial.config for trial in pupil.trials] for config in front)
    fourth = next_trial(pupil)
    assert fourth.config not in [trial.config for trial in saved.history]  # its results are known
    pupil.close()
    (tmp_path / "teacher" / "ledger.db").unlink()  # what was learnt is the pupil's own
    again = Study.open(pupil.file, SyntheticSizes())
    assert again.trials[-1].config == fourth.config


def test_an_interrupted_pupil_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    teacher = made(tmp_path, "teacher")
    in_process.run(teacher, SyntheticTrainable())
    histories = []
    for name, stop in (("whole", 0), ("parts", 7)):
        pupil = made(tmp_path, name, learn_from=[str(tmp_path / "teacher")])
        for _ in range(stop):
            trial = next_trial(pupil)
            for epoch in (1, 2):
                trainable = SyntheticTrainable()
                trainable.start(trial.config, seed=trial.seed, epochs=2, folder=None)
                metrics = [trainable.step() for _ in range(epoch)][-1]
                pupil.report(trial.number, epoch, metrics)
            pupil.worker_gone(trial.number)
        if stop:
            pupil.close()
            pupil = Study.open(pupil.file, SyntheticSizes())
        in_process.run(pupil, SyntheticTrainable())
        events = SqlLedger.open(pupil.folder / "ledger.db").events()
        histories.append([(e.kind, e.trial, json.dumps(dict(e.detail))) for e in events if e.kind != "opened"])
    assert histories[0] == histories[1]


def test_a_source_that_teaches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"is neither a study's folder nor its trials\.parquet"):
        made(tmp_path, "s", learn_from=[str(tmp_path / "nothing.parquet")])
    other = made(tmp_path, "other")
    other.close()
    with pytest.raises(StudyFileError, match="has no complete trial that is a point of this study's space"):
        made(tmp_path, "t", learn_from=[str(tmp_path / "other")])
