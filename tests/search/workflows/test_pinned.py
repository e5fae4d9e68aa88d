"""What a study stands on is pinned: a changed data set or other weights are refused by name at every entry."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from search.results.saved_study import load
from search.storage.events import EventKind
from search.storage.facts import Pinned
from search.storage.sql_ledger import SqlLedger
from trainables.backbones import WEIGHTS

from ...trainables.data import pictures
from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

ENTRIES = (
    ("resume", "s", "--back-end", "in-process", "--more-trials", "1"),
    ("rerun", "s", "0"),
    ("finalize", "s", "--back-end", "in-process", "--seeds", "1"),
    ("cost", "s"),
    ("export-adapter", "s", "0", "out"),
    ("register", "s", "0"),
    ("run", "other.yaml", "--back-end", "in-process"),  # which learns from it
)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pinned")
    pictures.image_folder(folder / "set", splits=("train", "val", "test"))
    shutil.copy(WEIGHTS / "vit_glyphs.safetensors", folder / "w.safetensors")
    study = {
        "study": "s",
        "backbone": {"name": "vit_glyphs", "weights": "w.safetensors"},
        "data": {"kind": "imagefolder", "path": "set"},
        "methods": ["lora"],
        "budget": {"n_trials": 2, "epochs": 1},
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(study))
    other = study | {"study": "other", "search": {"learn_from": ["paretune-studies/s"]}}
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    with_mlflow_database(folder / "paretune-studies")
    done = paretune("run", "s.yaml", "--back-end", "in-process", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def own(searched: Path, tmp_path: Path) -> Path:
    return shutil.copytree(searched, tmp_path / "own")


def more_images(folder: Path) -> str:
    (folder / "set" / "train" / "down" / "new.png").write_bytes(pictures.picture(1, 777))
    return "1 image is new (train/down/new.png)"


def other_weights(folder: Path) -> str:
    state = load_file(folder / "w.safetensors")
    name = next(iter(state))
    state[name] = state[name] + torch.tensor(1e-3)
    save_file(state, folder / "w.safetensors")
    return "are not those with which the study began: their digest was"


@pytest.mark.parametrize("change", [more_images, other_weights])
def test_a_change_is_refused_by_name_at_every_entry(own: Path, change: Callable[[Path], str]) -> None:
    told = change(own)
    for words in ENTRIES:
        done = paretune(*words, cwd=own)
        assert done.returncode == 2, (words, done.stdout, done.stderr)
        said = " ".join(done.stderr.split())
        assert (told in said) or (words[1] == "other.yaml" and "have changed since" in said), (words, said)
        assert "Traceback" not in said
    assert not (own / "out").exists()
    assert load(own / "paretune-studies" / "s").state == "FINISHED"


def test_a_data_set_that_has_moved_and_copies_with_other_times_are_accepted(own: Path) -> None:
    shutil.copytree(own / "set", own / "moved", copy_function=shutil.copyfile)
    shutil.rmtree(own / "set")
    study = yaml.safe_load((own / "s.yaml").read_text())
    (own / "s.yaml").write_text(yaml.safe_dump(study | {"data": study["data"] | {"path": "moved"}}))
    done = paretune("run", "s.yaml", "--back-end", "in-process", cwd=own)
    assert done.returncode == 0, done.stderr
    done = paretune("rerun", "s", "0", cwd=own)  # which has no study file: the ledger knows where they are now
    assert done.returncode == 0, done.stderr


def test_what_is_gone_changed_or_relabelled_is_named(own: Path) -> None:
    train = own / "set" / "train"
    (train / "down" / "000.png").unlink()
    (train / "across" / "001.png").rename(train / "slanted" / "999.png")
    (train / "down" / "002.png").write_bytes(pictures.picture(1, 778, size=(50, 50)))
    done = paretune("rerun", "s", "0", cwd=own)
    said = " ".join(done.stderr.split())
    assert "1 image is new (train/slanted/999.png)" in said
    assert "2 images are gone (train/across/001.png, train/down/000.png)" in said
    assert "1 image is of another size (train/down/002.png)" in said


def test_a_study_of_before_gets_its_facts_from_its_next_driver(own: Path) -> None:
    ledger_path = own / "paretune-studies" / "s" / "ledger.db"
    with closing(sqlite3.connect(ledger_path)) as connection, connection:
        connection.execute("UPDATE study SET facts = json_remove(facts, '$.pinned')")
    assert load(ledger_path.parent).row.facts.pinned is None
    done = paretune("resume", "s", "--back-end", "in-process", "--more-trials", "1", cwd=own)
    assert done.returncode == 0, done.stderr
    pinned = load(ledger_path.parent).row.facts.pinned
    assert isinstance(pinned, Pinned)
    assert pinned.rules == 1  # it goes on with the rules of its time
    with closing(SqlLedger.open(ledger_path)) as ledger:
        assert [event.kind for event in ledger.events()].count(EventKind.PINNED) == 1
    more_images(own)
    assert paretune("rerun", "s", "0", cwd=own).returncode == 2
