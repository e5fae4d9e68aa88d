"""Shares of a GPU from measured memory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.config.loading import check
from search.config.trial_resources import (
    CONTEXT_BYTES,
    MARGIN,
    MOST,
    gpu_share,
    gpu_shares,
    memory_fact,
    method_gpu_share,
    reserved_memory,
    smallest_gpu_share,
)
from search.errors import StudyFileError
from search.storage.facts import TrialMemory
from search.study.checks import facts_of
from search.workflows.preflight import CUDA_BYTES, bytes_needed
from trainables.simulated.plain import SyntheticSizes

GIB = 2**30
peaks = st.dictionaries(st.sampled_from(["lora", "arc", "lily", "fact", "snell"]), st.floats(1e6, 2e11), min_size=1)
cards = st.sampled_from([8 * GIB, 24 * GIB, 80 * GIB])


@given(peak=st.floats(1e6, 2e11), card=cards)
def test_so_many_trials_as_the_share_says_fit_on_a_card_and_one_more_would_not(peak: float, card: int) -> None:
    n = round(1 / gpu_share(peak, card))
    need = MARGIN * peak + CONTEXT_BYTES
    assert n == 1 or n * need <= card
    assert n == MOST or (n + 1) * need > card


@given(peaks=peaks, card=cards)
def test_there_are_two_classes_at_most_that_hold_every_method_and_no_other_two_take_less(
    peaks: dict[str, float], card: int
) -> None:
    found = gpu_shares(peaks, card)
    own = {method: gpu_share(peak, card) for method, peak in peaks.items()}
    assert found.keys() == peaks.keys()
    assert len(set(found.values())) <= 2
    assert all(found[method] >= own[method] for method in peaks)
    sizes = sorted(set(own.values()))
    least = min(  # every pair of classes that holds them all
        sum(light if own[method] <= light else heavy for method in own)
        for light, heavy in itertools.product(sizes, repeat=2)
        if heavy == max(sizes)
    )
    assert sum(found.values()) == pytest.approx(least)


def test_a_trial_gets_what_its_method_took_and_an_unknown_one_the_larger_share() -> None:
    peaks = {"lora": 4 * GIB, "full": 30 * GIB}
    shares = memory_fact({"peak_bytes": peaks, "card_bytes": 80 * GIB, "host_bytes": GIB}).shares
    assert method_gpu_share("auto", shares, "lora") == pytest.approx(1 / 14)  # 80 GiB / (5 GiB + 0.586 GiB)
    assert method_gpu_share("auto", shares, "full") == 0.5
    assert method_gpu_share("auto", shares, "arc") == 0.5
    assert smallest_gpu_share("auto", shares) == pytest.approx(1 / 14)
    assert method_gpu_share(0.25, shares, "lora") == smallest_gpu_share(0.25, shares) == 0.25


def test_without_a_card_auto_is_none() -> None:
    shares = memory_fact({"peak_bytes": {"lora": 4 * GIB}, "card_bytes": 0, "host_bytes": GIB}).shares
    assert method_gpu_share("auto", shares, "lora") == smallest_gpu_share("auto", shares) == 0.0


def test_ray_measures_each_method_and_places_as_many_as_a_nodes_memory_allows(embedded_ray: None) -> None:
    """And what arithmetic reserves holds what a worker takes, and not much more."""
    from cluster.connect import _fit
    from search.backends import ray_tune
    from trainables import measure

    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    backbone = {"name": "vit_tiny_patch16_224", "weights": "random", "img_size": 64}  # its step is larger than the libraries
    raw |= {"backbone": backbone, "space": {"optim.batch_size": 64}}
    file = check(raw | {"resources": {"gpus_per_trial": "auto"}})
    worker = file.worker()
    measured = ray_tune.memory(worker, [file.joint_space().default("lora")], file.resources)
    assert measured["card_bytes"] == 0
    assert measured["peak_bytes"].keys() == {"lora"}
    assert GIB / 8 < measured["host_bytes"] < measured["peak_bytes"]["lora"] < 8 * GIB  # which holds the files it maps, too
    facts = facts_of(file, SyntheticSizes(), memory=memory_fact(measured))
    takes = file.resources.of_a_trial(facts.memory)
    assert takes == {
        "cpus_per_trial": 1,
        "gpus_per_trial": 0.0,
        "accelerator_type": None,
        "memory_per_trial": measured["host_bytes"],
    }
    node = {"CPU": 64.0, "memory": 3.5 * measured["host_bytes"]}
    assert _fit(node, 1, 0.0, takes["memory_per_trial"]) == 3
    assert _fit(node, 1, 0.0, 0) == 64

    taken = measured["host_bytes"]
    idle = ray_tune.memory(worker, [], file.resources)["host_bytes"]  # libraries only
    needed = bytes_needed(file, measure(worker["backbone"], worker["data"]), process_bytes=idle, gpus=0)
    assert taken - idle > GIB / 8  # the step is what is large here
    assert taken <= needed <= idle + 2.5 * (taken - idle)


class Sizes(SyntheticSizes):
    """A backbone and methods of round numbers."""

    backbone_params = 10**9

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        if config["method"] == "lily":
            raise ValueError("does not fit")
        return batch_size * {"lora": 1, "arc": 2}[config["method"]] * 2**20


def test_a_worker_is_reserved_its_libraries_and_the_largest_step_of_any_method() -> None:
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora", "arc", "lily"], "budget": {"n_trials": 2, "epochs": 1}}
    assert (
        bytes_needed(check(raw), Sizes(), process_bytes=GIB, gpus=0) == GIB + 64 * 2 * 2**20
    )  # the largest batch that is drawn is 64
    parts = check(raw | {"recipe": {"accumulate": 3}, "space": {"optim.batch_size": {"low": 8, "high": 100}}})
    assert bytes_needed(parts, Sizes(), process_bytes=GIB, gpus=0) == GIB + 34 * 2 * 2**20  # 100 in three parts: 34, 33, 33
    assert bytes_needed(check(raw), Sizes(), process_bytes=GIB, gpus=0.5) == GIB + CUDA_BYTES + 4 * 10**9


def test_a_trial_that_needs_more_than_any_node_has_gets_a_node_for_itself() -> None:
    assert reserved_memory(GIB, most=2 * GIB) == reserved_memory(GIB, most=None) == TrialMemory(host_bytes=GIB, shares={})
    assert reserved_memory(3 * GIB, most=2 * GIB).host_bytes == 2 * GIB


def test_what_the_study_file_says_of_memory_goes_before_what_was_found() -> None:
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    measured = TrialMemory(host_bytes=GIB)
    assert check(raw).resources.of_a_trial(measured)["memory_per_trial"] == GIB
    assert check(raw).resources.of_a_trial(None)["memory_per_trial"] == 0  # a study made before
    said = check(raw | {"resources": {"memory_per_trial": "1.5GiB"}})
    assert said.resources.of_a_trial(measured)["memory_per_trial"] == 1.5 * GIB
    assert check(said.resolved()) == said
    with pytest.raises(StudyFileError, match="memory_per_trial"):
        check(raw | {"resources": {"memory_per_trial": "much"}})


def test_a_share_is_a_part_of_one_card_or_whole_cards_or_auto() -> None:
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    for good in (0, 0.25, 1, 2, "auto"):
        assert check(raw | {"resources": {"gpus_per_trial": good}}).resources.gpus_per_trial == good
    for bad in (1.5, -1, "all"):
        with pytest.raises(StudyFileError, match="gpus_per_trial"):
            check(raw | {"resources": {"gpus_per_trial": bad}})
