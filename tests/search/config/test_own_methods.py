"""A study file names methods of the user: by path, or by the entry point of an installed package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.config.loading import check, check_request, check_stored, load
from search.config.own_methods import load_named
from search.errors import RequestError, StudyFileError
from spaces import SPACES, Space
from trainables import method_files
from trainables.protocol import Changed

from ...own_methods import GAIN, changed

INSTALLED = changed(("import torch\n", "import torch\nfrom .values import FACTORS\n"), ("(0.1, 1.0, 10.0)", "FACTORS"))
STUDY: dict[str, Any] = {"study": "s", "data": {"kind": "digits"}, "budget": {"n_trials": 3, "epochs": 1}}


@pytest.fixture(autouse=True)
def _none_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_files, "_named", {})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, with one that offers the example as a method."""
    (folder := tmp_path / "installed" / "acme").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "values.py").write_text("FACTORS = (0.1, 1.0, 10.0)\n")
    (folder / "lowrank.py").write_text(INSTALLED)
    known = folder.parent / "acme-1.0.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (known / "entry_points.txt").write_text("[paretune.methods]\ngain = acme.lowrank\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in ("acme", "acme.values"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder.parent


def write(folder: Path, methods: list[str], text: str = GAIN, **more: Any) -> Path:
    (folder / "gain.py").write_text(text)
    (folder / "s.yaml").write_text(yaml.safe_dump(STUDY | {"methods": methods} | more))
    return folder / "s.yaml"


def test_a_path_is_resolved_against_the_study_file_and_becomes_the_methods_name(tmp_path: Path) -> None:
    file = load(write(tmp_path, ["lora", "./gain.py"], space={"gain.scale": [1, 2]}))
    assert file.methods == ("lora", "gain")
    assert {knob.key for knob in file.joint_space().knobs("gain")} > {"gain.scale", "gain.layers"}
    assert file.joint_space().default("gain")["gain.scale"] == 1.0
    [argument] = file.worker()["methods"]
    assert (argument["name"], argument["source"], argument["text"]) == ("gain", str(tmp_path / "gain.py"), GAIN)
    assert file.written()["methods"] == ["lora", str(tmp_path / "gain.py")]


def test_a_stored_file_has_the_space_as_data_and_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = load(write(tmp_path, ["./gain.py"]))
    (tmp_path / "gain.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr(method_files, "_named", {})
    stored = check_stored(file.resolved())
    assert stored.joint_space() == file.joint_space()
    assert stored.resolved() == file.resolved()
    with pytest.raises(RequestError, match=r"gain is code, .*gain.py.*paretune --method-file"):
        stored.worker()
    with pytest.raises(StudyFileError, match="no such method"):
        check_request({**STUDY, "methods": [str(tmp_path / "gain.py")]})


def test_a_named_file_of_the_same_name_is_compared_by_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = load(write(tmp_path, ["./gain.py"]))
    [then] = file.worker()["methods"]
    (moved := tmp_path / "moved").mkdir()
    (moved / "other.py").write_text(GAIN)
    monkeypatch.setattr(method_files, "_named", {})
    monkeypatch.setenv(method_files.VARIABLE, str(moved / "other.py"))
    assert method_files.find_file("gain", then["source"], then["digest"]).source == str(moved / "other.py")
    (moved / "gain.py").write_text(GAIN + "\n")
    monkeypatch.setenv(method_files.VARIABLE, str(moved / "gain.py"))
    found = method_files.find_file("gain", then["source"], then["digest"])
    with pytest.raises(Changed, match=rf"gain.*moved/gain.py.*{then['digest'][:12]} and is {found.digest[:12]}"):
        method_files.of_argument(found.as_argument("gain", then["digest"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = 1 / 0\n", r"gain.py, line 2: does not import: ZeroDivisionError"),
        ("x = 1\n  y\n", r"gain.py, line 2: does not import: IndentationError"),
        ("import acme_nowhere\n", r"gain.py, line 1: does not import: ModuleNotFoundError"),
        ("from trainables.adapters import LoRA as Mine, Method\n", "has no method: a class that derives from"),
        (changed(("    name: ClassVar[str] = \"gain\"\n", "")), "has no method.*Gain has no `name"),
        (GAIN + "\n\nclass Other(Gain):\n    name = 'other'\n", r"has 2 methods \(Gain, Other\)"),
        (GAIN.partition("SCALES =")[0], "has no SPACE; write SPACE"),
        (changed(("SPACE = Space", "SPACE = {}\nOTHER = Space")), "SPACE is dict"),
        (changed(('Space("gain"', 'Space("other"')), "SPACE is of the method 'other'"),
        (changed(("(SCALE, layers", "(layers")), r"the knobs of SPACE must be a tuple.*\(knob,\)"),
        (changed(('(SCALE, layers("gain"))', '(layers("gain"),)')), "no knob for gain.scale"),
        (changed(("    scale: float = 1.0\n", "    scale: float = 1.0\n    rank: int = 2\n")), "no knob for gain.rank"),
        (changed(('"gain.scale"', '"gain.size"')), "no knob for gain.scale and no field for gain.size"),
        (changed(('str] = "gain"', 'str] = "lora"')), "the name lora is taken by a method of Paretune"),
        (changed(('str] = "gain"', 'str] = "My gain"')), "the name of a method has small letters"),
        (changed(("@dataclass(frozen=True)\n", "")), r"must be a @dataclass\(frozen=True\)"),
        (changed(("scale: float = 1.0\n", "scale: dict = None\n")), "Gain.scale is dict; a knob is one of int, float"),
        (changed(("scale: float = 1.0\n", "scale: float\n"), ('layers: str = "all"', "layers: str")), r"Gain\(\) fails: TypeError"),
        (changed(("layers(\"gain\")))", "layers(\"gain\")), recipe={\"optim.rate\": 1.0})")), "recipe of SPACE has optim.rate"),
    ],
)  # fmt: skip
def test_a_file_without_one_usable_method_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StudyFileError, match=message) as refused:
        load(write(tmp_path, ["lora", "./gain.py"], text, space={"gain.scale": 1.0}))
    assert str(refused.value).startswith(f"{tmp_path / 's.yaml'}:"), refused.value
    assert len(str(refused.value).splitlines()) == 1


def test_no_such_file_and_two_files_of_one_name_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"s.yaml:\d+: methods.1: .*nowhere.py: no such file$"):
        load(write(tmp_path, ["lora", "./nowhere.py"]))
    with pytest.raises(StudyFileError, match=r"s.yaml: the file of a method is Python and ends in .py$"):
        load(write(tmp_path, ["lora", "./s.yaml"]))
    (tmp_path / "again.py").write_text(GAIN + "# again\n")
    with pytest.raises(StudyFileError, match=r"again.py: the name gain is taken by .*gain.py; choose another$"):
        load(write(tmp_path, ["./gain.py", "./again.py"]))
    with pytest.raises(StudyFileError, match="method_files: no such key"):
        load(write(tmp_path, ["lora"], method_files={}))


def test_an_installed_package_offers_a_method_by_its_name(package: Path) -> None:
    file = check(STUDY | {"methods": ["gain"]})
    [argument] = file.worker()["methods"]
    assert (argument["source"], argument["text"]) == ("acme.lowrank", INSTALLED)
    assert file.written()["methods"] == ["gain"]
    assert load_named("gain")[0].name == "gain"
    assert check_stored(file.resolved()).worker() == file.worker()  # installed code needs not be named again
    (package / "acme-1.0.dist-info" / "entry_points.txt").write_text("[paretune.methods]\nother = acme.lowrank\n")
    with pytest.raises(RequestError, match="not installed here"):
        check_stored(file.resolved()).worker()
    with pytest.raises(StudyFileError, match="declares it as other, and its method is gain"):
        check(STUDY | {"methods": ["other"]})
    with pytest.raises(RequestError, match=r"neither a path .* nor the method of an installed package \(there is other\)"):
        load_named("third")


@pytest.mark.parametrize("method", SPACES)
def test_a_space_is_the_same_after_it_was_stored(method: str) -> None:
    assert Space.from_json(SPACES[method].as_json()) == SPACES[method]
