"""A study file is checked whole, and every problem is told with its place and law."""

from pathlib import Path

import pytest
import yaml

from search import config
from search.config import StudyFileError

MINIMAL = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 3, "epochs": 2}}


def test_the_packaged_study_is_the_default_and_valid() -> None:
    file = config.load(None)
    assert file.study == "digits"
    assert file.methods == ("lora", "arc", "lily")
    assert config.packaged_names() == ["digits"]


def test_the_resolved_file_says_the_same_as_the_file() -> None:
    file = config.check(MINIMAL)
    assert config.check(file.resolved()) == file


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"methods": ["loar"]}, ["methods: loar: no such method; did you mean lora?"]),
        ({"budgit": {}}, ["budgit: no such key; did you mean budget?"]),
        ({"budget": {"n_trials": 0, "epochs": 2}}, ["budget.n_trials: Input should be greater than 0 (got 0)"]),
        (
            {"budget": {"n_trials": 3, "epoch": 2}},
            ["budget.epochs: Field required", "budget.epoch: no such key; did you mean epochs?"],
        ),
        ({"study": "../escape"}, ["study: String should match pattern"]),
        ({"space": {"lora.rnak": 4, "optim.lr": []}}, ["lora.rnak: no such knob", "optim.lr: an empty list leaves nothing"]),
        ({"data": {"kind": "imagenet"}}, ["data: Input tag 'imagenet' found"]),
        ({"objectives": ["val/loss", "adapter_params"]}, ["objectives.0: Input should be 'val/top1'"]),
        ({"recipe": {"warmup_fraction": float("nan")}}, ["recipe.warmup_fraction"]),
        (
            {"search": {"seed": -1, "sampler": "magic"}},
            ["search.seed", "search.sampler: Input should be 'auto', 'tpe' or 'random'"],
        ),
    ],
)
def test_every_problem_is_told_at_once_with_its_place(change: dict[str, object], messages: list[str]) -> None:
    with pytest.raises(StudyFileError) as caught:
        config.check(MINIMAL | change, "flowers.yaml")
    for message in messages:
        assert message in str(caught.value)
    assert all(line.startswith("flowers.yaml: ") for line in str(caught.value).splitlines())


def test_overrides_of_the_command_line_are_yaml_and_reach_dotted_knobs(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    file = config.load(path, ["budget.n_trials=7", "space.lora.rank=[1, 2]", "search.seed=4"])
    assert file.budget.n_trials == 7
    assert file.space == {"lora.rank": [1, 2]}
    assert file.search.seed == 4
    with pytest.raises(StudyFileError, match=r"--set budget: an override is written a\.b=value"):
        config.load(path, ["budget"])
    with pytest.raises(StudyFileError, match="study is a plain value"):
        config.load(path, ["study.name=x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not YAML"), ("- a\n- b", "a study file is a mapping"), ("!!python/object/apply:os.getcwd []", "not YAML")],
)
def test_a_file_that_is_not_a_study_is_refused_without_running_anything(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(StudyFileError, match=message):
        config.load(path)


def test_a_missing_file_names_what_is_packaged() -> None:
    with pytest.raises(StudyFileError, match=r"nowhere\.yaml: there is no such file.*packaged: digits"):
        config.load("nowhere.yaml")
