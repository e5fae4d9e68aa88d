"""A study file is checked whole, and every problem is told with its place and law."""

import json
from pathlib import Path

import pytest
import yaml

from search.config import loading
from search.config.data_sections import DATA_KINDS
from search.errors import StudyFileError

MINIMAL = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 3, "epochs": 2}}


def test_the_packaged_study_is_the_default_and_valid() -> None:
    file = loading.load(None)
    assert file.study == "emoji"
    assert file.methods == ("arc", "convpass", "lora", "adaptformer")
    assert loading.load("digits").methods == ("lora", "arc", "lily")
    assert loading.packaged_names() == ["digits", "emoji", "scenes"]


def test_the_resolved_file_says_the_same_as_the_file() -> None:
    file = loading.check(MINIMAL)
    assert loading.check(file.resolved()) == file


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"methods": ["loar"]}, ["methods.0: loar: no such method; did you mean lora?"]),
        ({"budgit": {}}, ["budgit: no such key; did you mean budget?"]),
        ({"budget": {"n_trials": 0, "epochs": 2}}, ["budget.n_trials: must be above 0 (got 0)"]),
        (
            {"budget": {"n_trials": 3, "epoch": 2}},
            ["budget.epochs: is missing", "budget.epoch: no such key; did you mean epochs?"],
        ),
        ({"study": "../escape"}, ["study: must be a name of 1 to 64 letters"]),
        ({"space": {"lora.rnak": 4, "optim.lr": []}}, ["lora.rnak: no such knob", "optim.lr: a list of values must not be empty"]),
        (
            {"data": {"kind": "imagenet"}},
            [f"data.kind: must be one of {', '.join(DATA_KINDS)} (got 'imagenet')"],
        ),
        ({"objectives": ["val/loss", "adapter_params"]}, ["objectives: 'val/loss' is not a metric; did you mean val/log_loss?"]),
        ({"objectives": ["macro_f1", "adapter_params"]}, ["objectives: 'macro_f1' is not a metric; did you mean val/macro_f1?"]),
        ({"objectives": "val/top1"}, ["objectives: must be a pair [METRIC, COST]"]),
        ({"recipe": {"warmup_fraction": float("nan")}}, ["recipe.warmup_fraction: must be a finite number (got nan)"]),
        ({"resources": {"memory_per_trial": "4 elephants"}}, ["resources.memory_per_trial: must be auto, or a size as 4GiB"]),
        ({"resources": {"gpus_per_trial": "all"}}, ["resources.gpus_per_trial: must be auto, a share of one GPU"]),
        ({"resources": {"accelerator_type": "A 100"}}, ["resources.accelerator_type: must be the label of Ray"]),
        ({"resources": 3}, ["resources: must be a section with some of the keys cpus_per_trial, gpus_per_trial"]),
        ({"methods": [5]}, ["methods: must be a list of methods, at least one: [lora, lily] (got 5)"]),
        ({"methods": "lora"}, ["methods: must be a list of methods"]),
        ({"data": "digits"}, ["data: must be a section with the key kind"]),
        ({"data": {"kind": "vtab", "path": 5}}, ["data.path: must be a path; quote a number (got 5)"]),
        ({"search": {"rungs": "asha"}}, ["search.rungs: must be null, or a section with some of the keys grace"]),
        ({"search": {"learn_from": "s"}}, ["search.learn_from: must be a list of folders"]),
        ({"recipe": {"compile": 2}}, ["recipe.compile: must be true or false (got 2)"]),
        (
            {"budget": {"n_trials": 1.5, "epochs": "9", "until": 20261224}},
            ["n_trials: must be a whole number", "until: must be a m"],
        ),
        ({"backbone": {"img_size": [224, 224]}}, ["backbone.img_size: must be one whole number of pixels"]),
        (
            {"search": {"seed": -1, "sampler": "magic"}},
            ["search.seed", "search.sampler: must be one of 'auto', 'tpe', 'nsga2', 'gp', 'random' or 'grid'"],
        ),
    ],
)
def test_every_problem_is_told_at_once_with_its_place(change: dict[str, object], messages: list[str]) -> None:
    with pytest.raises(StudyFileError) as caught:
        loading.check(MINIMAL | change, "flowers.yaml")
    for message in messages:
        assert message in str(caught.value)
    lines = str(caught.value).splitlines()
    assert all(line.startswith("flowers.yaml: ") for line in lines)
    assert len({line.split(": ")[1] for line in lines}) == len(lines)  # one line for each key


def test_every_problem_carries_its_line_or_the_override_that_caused_it(tmp_path: Path) -> None:
    path = tmp_path / "flowers.yaml"
    path.write_text(
        "study: flowers\n"
        "data: {kind: digits}\n"
        "methods: [arc, loar]\n"
        "space:\n"
        "  arc.rnak: 4\n"
        "  lora.rank: 2\n"
        "budget:\n"
        "  n_trials: .inf\n"
    )
    with pytest.raises(StudyFileError) as caught:
        loading.load(path, ["search.seed=-1"])
    lines = str(caught.value).splitlines()
    expected = [
        (3, "methods.1: loar: no such method; did you mean lora?"),
        (5, "space.arc.rnak: no such knob; did you mean arc.rank?"),
        (6, "space.lora.rank: is a knob of lora, which is not among the methods"),
        (7, "budget.epochs: is missing"),
        (8, "budget.n_trials: must be a finite number"),
    ]
    for line, (number, text) in zip(lines, expected, strict=False):
        assert line.startswith(f"{path}:{number}: {text}")
    assert lines[5].startswith("--set search.seed=-1: search.seed: must be at least 0")
    assert len(lines) == 6


def test_a_learning_rate_may_be_written_as_everyone_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(MINIMAL) + "space: {optim.lr: {low: 1e-4, high: 1E-2, log: true}, optim.weight_decay: 5e-4}\n")
    file = loading.load(path)
    assert file.space == {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}, "optim.weight_decay": 5e-4}


def test_overrides_of_the_command_line_are_yaml_and_reach_dotted_knobs(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    file = loading.load(path, ["budget.n_trials=7", "space.lora.rank=[1, 2]", "search.seed=4"])
    assert file.budget.n_trials == 7
    assert file.space == {"lora.rank": [1, 2]}
    assert file.search.seed == 4
    with pytest.raises(StudyFileError, match=r"--set budget: an override must have the form a\.b=value"):
        loading.load(path, ["budget"])
    with pytest.raises(StudyFileError, match="study is a plain value"):
        loading.load(path, ["study.name=x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"bad\.yaml:1: not YAML"),
        ("- a\n- b", "a study file must be a mapping"),
        ("", "a study file must be a mapping"),
        ("!!python/object/apply:os.getcwd []", "not YAML"),
        ("study: a\nstudy: b", r"bad\.yaml:2: study: given twice \(first in line 1\)"),
        ("1: a", "a key must be a word"),
        ("a: &a [*a]", "expands to more than 10,000 values"),
        ("a: " + "[" * 5000, "nested too deeply"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
            "expands to more than 10,000 values",
        ),
    ],
)
def test_a_file_that_is_not_a_study_is_refused_without_running_anything(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(StudyFileError, match=message):
        loading.load(path)


def test_a_missing_file_names_what_is_packaged() -> None:
    with pytest.raises(StudyFileError, match=r"nowhere\.yaml: neither a file nor a packaged study .*packaged: digits, emoji"):
        loading.load("nowhere.yaml")


def test_a_worker_elsewhere_is_given_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = loading.check(MINIMAL | {"data": {"kind": "imagefolder", "path": "set"}, "backbone": {"weights": "w.safetensors"}})
    worker = file.worker()
    assert worker["data"]["path"] == str(tmp_path / "set")
    assert worker["backbone"]["weights"] == str(tmp_path / "w.safetensors")


# -- YAML as people write it -----------------------------------------------------------------------------------------


def loaded(tmp_path: Path, text: str | bytes) -> loading.StudyFile:
    path = tmp_path / "s.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return loading.load(path)


BASE = "study: s\ndata: {kind: digits}\nmethods: [lora]\nbudget: {n_trials: 3, epochs: 2}\n"


def test_merge_keys_are_merged_and_a_key_beside_them_wins(tmp_path: Path) -> None:
    text = BASE.replace("budget: {n_trials: 3, epochs: 2}", "budget:\n  <<: &base {n_trials: 3, epochs: 2}\n  epochs: 5")
    assert loaded(tmp_path, text).budget.epochs == 5
    two = BASE + "recipe: &r {clip_norm: 1.0}\nsearch:\n  <<: [{seed: 4}, {seed: 5, sampler: tpe}]\n"
    assert (loaded(tmp_path, two).search.seed, loaded(tmp_path, two).search.sampler) == (4, "tpe")
    apart = BASE.replace("budget: {n_trials: 3, epochs: 2}", "budget: {<<: *base, epochs: 5}")
    assert loaded(tmp_path, f"x-base: &base {{n_trials: 3}}\n{apart}").budget.n_trials == 3  # a key for anchors only
    with pytest.raises(StudyFileError, match=r"s\.yaml:5: budget.epoch: no such key"):
        loaded(tmp_path, text.replace("epochs: 2}", "epoch: 2}"))


@pytest.mark.parametrize(
    ("written", "read"), [("1e-4", 1e-4), ("1E-3", 1e-3), (".001", 1e-3), ("0.001", 1e-3), ("1.e-3", 1e-3), ("+1e-2", 1e-2)]
)
def test_a_learning_rate_is_a_number_however_it_is_written(tmp_path: Path, written: str, read: float) -> None:
    assert loaded(tmp_path, BASE + f"space: {{optim.lr: {written}}}\n").space["optim.lr"] == read


@pytest.mark.parametrize(
    ("written", "law"),
    [
        (
            "budget: {n_trials: 3, epochs: 2, max_hours: 1:30}",
            "budget.max_hours: must be a number of hours above 0 .1.5 for 1:30., or null",
        ),
        ("budget: {n_trials: 3, epochs: 2, until: 2026-13-45}", "s.yaml:4: budget.until: must be a moment as"),
        ("budget: {n_trials: yes, epochs: 2}", "s.yaml:4: budget.n_trials: must be a whole number"),
        ("budget: {n_trials: 3, epochs: 2, max_hours: on}", "s.yaml:4: budget.max_hours: must be a number of hours"),
        (f"budget: {{n_trials: {'9' * 5000}, epochs: 2}}", "s.yaml:4: not YAML: a number with too many digits"),
        ("budget:\n\tn_trials: 3", "s.yaml:5: not YAML: .* indent with spaces, not with tabs"),
    ],
)
def test_what_looks_like_a_number_or_a_date_and_is_none_is_refused(tmp_path: Path, written: str, law: str) -> None:
    with pytest.raises(StudyFileError, match=law):
        loaded(tmp_path, BASE.replace("budget: {n_trials: 3, epochs: 2}", written))


def test_a_byte_order_mark_carriage_returns_and_yes_are_read(tmp_path: Path) -> None:
    text = (BASE + "recipe: {compile: yes}\n").replace("\n", "\r\n")
    assert loaded(tmp_path, b"\xef\xbb\xbf" + text.encode()).recipe.compile is True


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("none", "none"),
        ("imagenet", "imagenet"),
        ("{mean: [0.5, 0, 1], std: [1, 1, 2]}", {"mean": [0.5, 0.0, 1.0], "std": [1.0, 1.0, 2.0]}),
    ],
)
def test_the_normalisation_of_images_is_a_word_or_a_mean_and_a_std_of_each_channel(
    tmp_path: Path, written: str, kept: object
) -> None:
    text = BASE.replace("{kind: digits}", f"{{kind: vtab, path: /images, normalize: {written}}}")
    file = loaded(tmp_path, text)
    assert file.worker()["data"]["normalize"] == file.resolved()["data"]["normalize"] == kept
    assert loading.check(file.resolved()).resolved() == file.resolved()
    older = file.resolved()
    del older["data"]["normalize"]  # as a study of before has it
    assert loading.check_stored(older).resolved()["data"]["normalize"] == "backbone"


@pytest.mark.parametrize("written", ["caffe", "{mean: [0.5], std: [0]}", "{mean: [0.5, 0.5], std: [1]}", "{mean: [0.5]}", "1"])
def test_a_normalisation_that_is_none_is_refused_with_its_place(tmp_path: Path, written: str) -> None:
    with pytest.raises(StudyFileError, match=r"s\.yaml:2: data\.normalize: (must be backbone|a mean and a std)"):
        loaded(tmp_path, BASE.replace("{kind: digits}", f"{{kind: vtab, path: /images, normalize: {written}}}"))


# -- values have the type of their knob ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "written", "kept"),
    [
        ("optim.weight_decay", {"low": 0, "high": 1}, {"low": 0.0, "high": 1.0}),
        ("recipe.drop_path", {"low": 0, "high": 0.2, "step": 0.1}, {"low": 0.0, "high": 0.2, "step": 0.1}),
        ("lora.rank", {"low": 1, "high": 8}, {"low": 1, "high": 8}),
        ("lora.layers", "last-3", "last-3"),
        ("optim.lr", [1, 1e-3], [1.0, 1e-3]),
    ],
)
def test_a_range_has_the_type_of_its_knob(key: str, written: object, kept: object) -> None:
    space = loading.check(MINIMAL | {"space": {key: written}}).space[key]
    assert repr(space) == repr(kept)
    assert loading.check_stored(MINIMAL | {"space": {key: written}}).space[key] == written  # in a ledger it stays as it was


@pytest.mark.parametrize(
    ("key", "written", "law"),
    [
        ("lora.rank", {"low": 1, "high": 9, "step": 1.5}, "must be a whole number, got 1.5; nearest: 2"),
        ("lora.rank", 8.0, "must be a whole number, got 8.0; nearest: 8"),
        ("lora.rank", True, "must be a whole number, got True"),
        ("optim.lr", [1e-3, "1e-4"], "must be a number, got the word '1e-4'; write a number, without quotes"),
        ("optim.lr", None, "must be a number, got None"),
        ("optim.lr", {"low": 0, "high": 1e-2}, r"must be in (0, inf), got 0.0"),
        ("recipe.drop_path", 1.5, r"must be in [0, 1), got 1.5"),
        ("lora.dropout", [0.1, -0.1], r"must be in [0, 1), got -0.1; nearest: 0"),
        ("lora.rank", {"low": 0, "high": 8}, r"must be in [1, inf), got 0; nearest: 1"),
        ("optim.batch_size", 0, r"must be in [1, inf), got 0; nearest: 1"),
        ("lora.targets", ["qkv", "nope"], "must be one of qv, qkv, qkvo, qkvo_mlp, got 'nope'"),
        ("lora.targets", {"low": 1, "high": 2}, "a range needs numbers"),
        ("lora.rank", {"values": [1, 2]}, "a range must be {low, high, log, step}"),
        ("lora.rank", {"type": "int", "low": 1, "high": 4}, "a range must be {low, high, log, step}"),
        ("lora.layers", "middle", "(or (first|last)-[1-9][0-9]*), got 'middle'"),
        ("optim.lr", {"low": 1e-4, "high": 1e-2, "log": "false"}, "log must be true or false, got 'false'"),
        ("lora.rank", {"low": 1, "high": 10, "step": 4}, "steps of 4 do not lead from 1 to 10; nearest high: 9"),
    ],
)
def test_a_value_that_is_none_of_its_knobs_is_refused_with_the_nearest(tmp_path: Path, key: str, written: object, law: str) -> None:
    (tmp_path / "s.yaml").write_text(BASE + f"space:\n  {key}: {json.dumps(written)}\n")
    with pytest.raises(StudyFileError) as refused:
        loading.load(tmp_path / "s.yaml")
    assert law in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path}/s.yaml:6: space.{key}: ")


def test_a_gradient_is_clipped_for_methods_that_exist() -> None:
    assert loading.check({**MINIMAL, "recipe": {"clip_norm": {"arc": 1.0}}}).recipe.clip_norm == {"arc": 1.0}
    with pytest.raises(StudyFileError, match=r"study: recipe.clip_norm: ark: no such method; did you mean arc\?"):
        loading.check({**MINIMAL, "recipe": {"clip_norm": {"ark": 1.0}}})


def test_a_star_stands_for_every_method_that_has_the_knob() -> None:
    file = loading.check(
        MINIMAL | {"methods": ["lora", "arc", "ssf", "lily"], "space": {"*.rank": [2, 4], "lora.rank": 8, "*.layers": "last-2"}}
    )
    assert {key: value for key, value in file.space.items() if key.endswith(".rank")} == {
        "arc.rank": [2, 4],
        "lily.rank": [2, 4],
        "lora.rank": 8,
    }
    assert {key for key in file.space if key.endswith(".layers")} == {"lora.layers", "arc.layers", "ssf.layers", "lily.layers"}
    assert loading.check(file.written()).space == file.space
    with pytest.raises(StudyFileError, match=r"space\.\*\.layer: no such knob; did you mean \*\.layers\?"):
        loading.check(MINIMAL | {"methods": ["lora"], "space": {"*.layer": "all"}})


def test_the_anchor_is_a_part_of_the_space_where_it_is_asked_for() -> None:
    file = loading.check(MINIMAL)
    assert file.joint_space().methods == ("lora",)
    space = file.joint_space(with_anchor=True)
    assert space.methods == ("lora", "head_only")
    assert space.holds(space.default("head_only"))
    assert loading.check(MINIMAL | {"methods": ["head_only"]}).joint_space(with_anchor=True).methods == ("head_only",)
