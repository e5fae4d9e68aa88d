"""What methods bring to a front, and which knobs matter: against closed forms."""

import json
import sqlite3
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import spaces
from search.backends import in_process
from search.config.loading import check
from search.results.contributions import contributions
from search.results.importance import importance
from search.results.saved_study import load
from search.samplers.base import SamplerContext
from search.samplers.sampler import SeededSampler
from search.storage.rows import Report
from search.study.study import Study
from search.trial import State, Trial
from spaces import Config
from trainables import make, measure

from .. import command_line


def trial(number: int, method: str, top1: float, size: int, state: State = State.COMPLETE) -> Trial:
    config: Config = {"method": method}
    return Trial(number, state, config, 0, size, 10, epochs=3, metrics={"val/top1": top1})


def test_a_contribution_is_what_the_front_loses_without_the_method() -> None:
    """Sizes 0, 9 and 99 are 0, 1 and 2 decades; the reference is at 3 decades and accuracy 0."""
    trials = [
        trial(0, "head_only", 0.5, 0),
        trial(1, "lora", 0.65, 9),
        trial(2, "arc", 0.9, 99),
        trial(3, "lora", 0.8, 99),
        trial(4, "lily", 0.7, 999, State.PRUNED),
    ]
    found = {share.method: share for share in contributions(trials, (0.0, 999.0))}
    assert list(found) == ["head_only", "lora", "arc", "lily"]  # by contribution
    assert found["head_only"].contribution == pytest.approx(0.5)  # the first decade
    assert found["arc"].contribution == pytest.approx(0.9 - 0.8)  # the last decade, where lora's 0.8 steps in
    assert found["lora"].contribution == pytest.approx(0.65 - 0.5)
    assert found["lora"].hypervolume == pytest.approx(0.5 + 0.65 + 0.8)
    assert [t.number for t in found["lora"].front] == [1, 3]
    assert (found["lily"].n_trials, found["lily"].n_complete, found["lily"].contribution) == (1, 0, 0.0)
    assert found["lily"].n_epochs == 3


def test_the_knob_that_makes_all_the_difference_has_all_the_importance() -> None:
    space = spaces.joint(["lora", "arc"])
    trials, reports = [], []
    for number, config in enumerate(SeededSampler.make("random", SamplerContext(space)).draws(60)):
        rank = int(str(config[f"{config['method']}.rank"]))
        top1 = {"lora": 0.9 - 0.4 / rank, "arc": 0.7}[str(config["method"])]
        trials.append(Trial(number, State.COMPLETE, config, 0, 100, 10, epochs=1, metrics={"val/top1": top1}))
        reports.append(Report(number, 1, 0.0, number, {"val/top1": top1}))
    found = importance(space, trials, reports)
    assert set(found) == {"lora", "arc"}
    assert next(iter(found["lora"])) == "lora.rank"
    assert found["lora"]["lora.rank"] > 0.8
    assert sum(share for key, share in found["lora"].items() if key != "lora.rank") < 0.2
    assert all(0.0 <= share <= 1.0 for shares_of in found.values() for share in shares_of.values())
    assert importance(space, trials[:5], reports[:5]) == {}


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a finished study of real training, tiny."""
    storage = tmp_path_factory.mktemp("storage")
    file = check(
        {"study": "tiny", "data": {"kind": "digits"}, "methods": ["lora", "arc"], "storage": str(storage)}
        | {"budget": {"n_trials": 4, "epochs": 2, "max_params": 50_000}}
    )
    study = Study.create(file, measure(file.worker()["backbone"], file.worker()["data"]))
    in_process.run(study, make(**file.worker(study.row.facts)))
    study.close()
    return storage


def paretune(*words: str, cwd: Path) -> CompletedProcess[str]:
    return command_line.paretune(*words, "--storage", str(cwd), cwd=cwd)


@pytest.mark.slow
def test_a_trial_repeats_to_the_last_bit_and_a_changed_record_is_noticed(studied: Path) -> None:
    done = paretune("rerun", "tiny", "3", cwd=studied)
    assert done.returncode == 0, done.stderr
    assert "trial 3: 2 of 2 epochs are identical to the last bit" in done.stdout
    with sqlite3.connect(studied / "tiny" / "ledger.db") as connection:  # someone has touched the record
        connection.execute("UPDATE reports SET metrics = json_set(metrics, '$.\"val/top1\"', 0.123) WHERE trial = 2 AND epoch = 2")
    done = paretune("rerun", "tiny", "2", "--json", cwd=studied)
    assert done.returncode == 1
    assert [epoch["then"] == epoch["now"] for epoch in json.loads(done.stdout)["epochs"]] == [True, False]
    refused = paretune("rerun", "tiny", "9", cwd=studied)
    assert refused.returncode == 2
    assert "no trial 9: study" in refused.stderr


@pytest.mark.slow
def test_the_commands_say_what_the_functions_say(studied: Path) -> None:
    saved = load(studied / "tiny")
    found = json.loads(paretune("shares", "tiny", "--json", cwd=studied).stdout)
    assert [row["method"] for row in found] == [share.method for share in contributions(saved.history, saved.reference_point)]
    assert "head_only" in paretune("shares", "tiny", cwd=studied).stdout
    assert "No method has 8 trials yet." in paretune("importance", "tiny", cwd=studied).stdout
