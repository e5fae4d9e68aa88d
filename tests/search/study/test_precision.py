"""What `recipe.precision: auto` comes to is settled once, when a study is made."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from search.config.study_file import StudyFile
from search.errors import StudyFileError
from search.storage.facts import PrecisionFact
from search.study.study import Study
from search.workflows import run
from trainables.simulated.plain import SyntheticSizes

from .. import studies


def study_file(storage: Path, **recipe: Any) -> StudyFile:
    return studies.study_file(storage, methods=["lora"], budget={"n_trials": 1, "epochs": 1}, recipe=recipe)


def handed_out(study: Study) -> str:
    """The precision that workers are told."""
    return str(study.file.worker(study.row.facts)["recipe"]["precision"])


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_study_that_is_opened_again_trains_in_what_was_chosen_when_it_was_made(tmp_path: Path, chosen: str) -> None:
    file = study_file(tmp_path)
    with closing(Study.create(file, SyntheticSizes(), precision={"chosen": chosen, "why": "a test"})) as study:
        assert handed_out(study) == chosen
    with closing(Study.open(file, SyntheticSizes())) as again:
        assert handed_out(again) == chosen


def test_a_study_whose_ledger_says_nothing_of_precision_goes_on_in_float32(tmp_path: Path) -> None:
    with closing(Study.create(study_file(tmp_path), SyntheticSizes())) as study:
        assert study.row.facts.precision is None
        assert handed_out(study) == "float32"


def test_a_precision_that_is_named_is_neither_probed_nor_overruled(tmp_path: Path) -> None:
    named = "bfloat16"
    saved = run.run(study_file(tmp_path, precision=named), back_end="in-process")
    assert saved.row.facts.precision is None
    facts = saved.row.facts.model_copy(update={"precision": PrecisionFact(chosen="other")})
    assert study_file(tmp_path, precision=named).worker(facts)["recipe"]["precision"] == named


def test_the_driver_notes_what_was_found_and_why(tmp_path: Path) -> None:
    saved = run.run(study_file(tmp_path), back_end="in-process")
    assert saved.row.facts.precision == PrecisionFact(chosen="float32", why="nothing is computed")


@pytest.mark.parametrize("recipe", [{"precision": "float16"}, {"accumulate": 0}, {"compile": "perhaps"}])
def test_what_a_recipe_cannot_be_is_refused_by_its_key(tmp_path: Path, recipe: dict[str, Any]) -> None:
    with pytest.raises(StudyFileError, match=rf"recipe\.{next(iter(recipe))}: "):
        study_file(tmp_path, **recipe)
