"""Which tokens of its images a study keeps follows from the study file, and a study that began before keeps none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from search.config import loading
from search.config.loading import check, check_stored
from search.config.prefix_cache import AUTO_BYTES, prefix_fact
from search.errors import StudyFileError
from search.storage.facts import Facts, PrefixFact, TrialMemory
from search.study.checks import facts_of
from search.workflows.preflight import bytes_needed
from trainables import measure
from trainables.data import n_fixed_inputs
from trainables.simulated.plain import SyntheticSizes

RAW: dict[str, Any] = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}


class Twelve(SyntheticSizes):
    """Twelve blocks with 100 bytes in front of each, and one byte in front of the classifier."""

    def frozen(self, config: Mapping[str, Any]) -> tuple[int, int]:
        layers = config.get("lora.layers")
        if layers == "last-4":
            raise ValueError("does not fit the backbone")
        return {None: (13, 1), "last-2": (10, 100), "last-1": (11, 100), "last-6": (6, 100)}.get(layers, (0, 0))


def fact(size: Any, choices: list[str]) -> PrefixFact:
    raw = {**RAW, "resources": {"prefix_cache": size}, "space": {"lora.layers": choices}}
    return prefix_fact(check(raw), Twelve())


def test_the_deepest_places_in_front_of_a_choice_of_blocks_are_kept_as_far_as_they_fit() -> None:
    choices = ["all", "last-1", "last-2", "last-4", "last-6"]
    assert fact("auto", choices) == PrefixFact(cuts=(6, 10, 11, 13), most_bytes=AUTO_BYTES, cut_bytes=100)
    assert fact(201, choices).cuts == (10, 11, 13)
    assert fact(200, choices).cuts == (11, 13)
    assert fact(99, choices) == PrefixFact(cuts=(13,), most_bytes=99, cut_bytes=1)
    assert fact("1KiB", ["all", "first-2"]).cuts == (13,)
    assert fact("off", choices) == PrefixFact()


def test_the_real_backbone_has_its_blocks_and_the_images_of_both_splits() -> None:
    file = check(RAW)
    worker = file.worker()
    sizes = measure(worker["backbone"], worker["data"])
    assert prefix_fact(file, sizes) == PrefixFact(cuts=(2, 4, 7), most_bytes=AUTO_BYTES, cut_bytes=1000 * 16 * 64 * 4)
    assert sizes.frozen({"method": "head_only"}) == (7, 1000 * 64 * 4)
    with pytest.raises(ValueError, match="rank"):
        sizes.frozen({"method": "lora", "lora.rank": 10_000})


@pytest.mark.parametrize(("augment", "n_inputs"), [("none", 1000), ("flip", 1200), ("crop", 0)])
def test_a_mirrored_image_is_another_one_and_random_crops_are_never_the_same(augment: str, n_inputs: int) -> None:
    assert n_fixed_inputs({"kind": "digits", "augment": augment}) == n_inputs


def test_yaml_reads_off_as_false(tmp_path: Path) -> None:
    assert loading.load(None, ["resources.prefix_cache=off"]).resources.prefix_cache == "off"
    file = loading.load(None, ["resources.prefix_cache=1.5GiB"])
    assert file.resources.prefix_cache == 1.5 * 2**30
    assert check(file.resolved()).resources == file.resources
    for wrong in ("yes", "much"):
        with pytest.raises(StudyFileError, match=r"resources\.prefix_cache: must be auto, off, or a size as 4GiB"):
            loading.load(None, [f"resources.prefix_cache={wrong}"])


def test_a_study_that_began_before_trains_as_it_did() -> None:
    stored = check(RAW).resolved()
    del stored["resources"]["prefix_cache"]
    file = check_stored(stored)
    now = facts_of(file, Twelve())
    assert now.prefix is not None
    then = Facts.model_validate({key: value for key, value in now.as_json().items() if key != "prefix"})
    assert file.worker(then)["recipe"].keys() & {"prefix_cuts", "prefix_bytes"} == set()
    again = Facts.model_validate(now.as_json())
    recipe = file.worker(again)["recipe"]
    assert (recipe["prefix_cuts"], recipe["prefix_bytes"]) == ([10, 13], AUTO_BYTES)


def test_a_worker_is_reserved_the_tokens_of_one_place_in_memory() -> None:
    few, many = (check({**RAW, "space": {"lora.layers": choices}}) for choices in (["all"], ["last-1", "last-2"]))
    needed = [bytes_needed(file, Twelve(), process_bytes=0, gpus=gpus) for gpus in (0.0, 1.0) for file in (few, many)]
    assert needed[1] - needed[0] == needed[3] - needed[2] == 99
    assert few.resources.of_a_trial(TrialMemory(host_bytes=needed[0]))["memory_per_trial"] == needed[0]
