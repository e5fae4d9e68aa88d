"""What finished studies teach another one: learnt, written, read, and tried first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.backends import in_process
from search.config.prior_file import read_prior
from search.errors import RequestError, StudyFileError
from search.results.saved_study import load
from search.study.study import Study
from search.workflows.learn_prior import learn_prior
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from ..command_line import paretune
from ..studies import new_study, next_trial

pytestmark = pytest.mark.slow

BUDGET = {"n_trials": 14, "epochs": 2, "max_params": 20_000}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished studies."""
    folder = tmp_path_factory.mktemp("studies")
    for name, methods in (("first", ["lora", "arc"]), ("second", ["lora", "lily"])):
        study = new_study(folder, study=name, methods=methods, budget=BUDGET, search={"sampler": "random"})
        in_process.run(study, SyntheticTrainable())
        study.close()
    return folder


@pytest.fixture
def prior(storage: Path, tmp_path: Path) -> Path:
    done = paretune("learn", "first", "second", "-o", "team.prior", "--storage", str(storage), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Learnt from 28 complete trials" in done.stdout
    return tmp_path / "team.prior"


def test_the_first_configurations_are_of_the_fronts_and_reach_more_and_more_of_them(storage: Path) -> None:
    studies = [load(storage / name) for name in ("first", "second")]
    learnt = learn_prior(studies)
    of_fronts = [trial.config for study in studies for trial in study.members if trial.method != "head_only"]
    assert 2 <= len(learnt.prior.first) <= 10
    assert all(config in of_fronts for config in learnt.prior.first)
    assert learnt.shares == sorted(learnt.shares)
    assert 0.9 < learnt.shares[-1] < 1.1
    alone = learn_prior(studies[:1], n_first=50)
    assert alone.shares[-1] == pytest.approx(1.0, abs=0.01)  # a study's own front is all of it


def test_a_new_study_tries_them_first_and_needs_the_file_no_more(storage: Path, tmp_path: Path) -> None:
    prior, taught = tmp_path / "a.prior", learn_prior([load(storage / "first")]).prior
    prior.write_text(taught.model_dump_json())
    space = {"optim.lr": {"low": 1e-4, "high": 1e-3, "log": True}}
    pupil = new_study(
        tmp_path, study="pupil", methods=["lora", "arc", "lily"], space=space, search={"prior": str(prior)}, budget=BUDGET
    )
    joint = pupil.file.joint_space()
    moved = [joint.nearest(config) for config in taught.first]
    assert all(1e-4 <= float(str(config["optim.lr"])) <= 1e-3 for config in moved if config is not None)
    assert moved != taught.first
    tried = [next_trial(pupil).config for _ in range(1 + len(moved))]
    assert tried[0]["method"] == "head_only"
    assert tried[1:] == moved
    assert next_trial(pupil).config["method"] == "lily"  # the one that the prior does not begin with
    pupil.close()
    prior.unlink()
    again = Study.open(pupil.file, SyntheticSizes())
    in_process.run(again, SyntheticTrainable())
    assert again.finished


def test_the_surrogate_begins_with_what_the_others_found(prior: Path, tmp_path: Path) -> None:
    told = read_prior(prior)
    (tmp_path / "first.prior").write_text(told.model_copy(update={"trials": []}).model_dump_json())
    histories = []
    for name in ("team", "first"):  # the same first configurations, with and without standings
        search = {"prior": str(tmp_path / f"{name}.prior")}
        study = new_study(tmp_path, study=name, methods=["lora", "arc"], search=search, budget=BUDGET | {"n_trials": 20})
        in_process.run(study, SyntheticTrainable())
        histories.append([trial.config for trial in study.trials])
    n_first = 1 + len([config for config in told.first if config["method"] != "lily"])
    taught, untaught = histories
    assert taught[:n_first] == untaught[:n_first]
    assert taught != untaught


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "studies: field required"),
        ('{"studies": [], "first": [], "trials": [{"config": {}, "standing": "good"}]}', "trials.0.standing: input should be"),
        ('{"studies": [], "first": [], "trials": [], "__reduce__": 1}', "__reduce__: extra inputs"),
        ("not json", "the file: invalid json"),
        ('{"studies": ["s"], "first": [{"method": "lily"}], "trials": []}', "knows none of the methods lora"),
        ('{"studies": ["s"], "first": [{"method": "lora", "optim.lr": "fast"}], "trials": []}', "knows none of the methods lora"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_prior_is_refused_before_anything_is_made(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "bad.prior").write_text(text)
    with pytest.raises(StudyFileError, match=f"search.prior: .*{message}"):
        new_study(tmp_path, methods=["lora"], search={"prior": str(tmp_path / "bad.prior")})
    assert not (tmp_path / "s").exists()


def test_what_teaches_nothing_is_refused_and_no_file_is_overwritten(storage: Path, prior: Path, tmp_path: Path) -> None:
    again = paretune("learn", "first", "-o", str(prior), "--storage", str(storage), cwd=tmp_path)
    assert (again.returncode, "exists; name another file" in again.stderr) == (2, True)
    small = new_study(tmp_path, study="small", methods=["lora"], budget=BUDGET | {"n_trials": 2})
    in_process.run(small, SyntheticTrainable())
    with pytest.raises(RequestError, match="small has 2 complete trials of packaged methods"):
        learn_prior([load(tmp_path / "small")])


def test_the_json_tells_what_the_table_shows(storage: Path, tmp_path: Path) -> None:
    done = paretune("learn", "second", "--first", "2", "-o", "a.prior", "--json", "--storage", str(storage), cwd=tmp_path)
    told = json.loads(done.stdout)
    assert len(told["first"]) == len(told["shares"]) == 2
    assert told["first"] == read_prior(tmp_path / "a.prior").first
