"""What a study would hold and cost: counted against brute force, and against the study itself."""

import itertools
import json
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from search.backends import simulated
from search.backends.simulated import VirtualClock
from search.cli.plan import note_on_slots
from search.config.loading import check
from search.workflows import plan
from search.workflows.epoch_seconds import Predicted
from trainables import measure
from trainables.costs.speed import Speed
from trainables.simulated.surfaces import Surface, SurfaceTrainable

from .. import command_line, studies

FINITE = {
    "lora.rank": [1, 4, 32],
    "lora.scale": 1.0,
    "lora.dropout": [0.0, 0.1],
    "lora.layers": ["all", "last-2"],
    "lora.targets": ["qv", "qkvo_mlp"],
    "optim.lr": [1e-3, 1e-2],
    "optim.weight_decay": 0.0,
    "optim.batch_size": [16, 32],
    "recipe.drop_path": 0.0,
}

study_file = partial(
    studies.study_file,
    data={"kind": "digits"},
    methods=["lora"],
    space=FINITE,
    budget={"n_trials": 20, "epochs": 4, "max_params": 20_000},
)


def test_a_finite_space_is_counted_and_its_sizes_are_those_of_all_its_configurations() -> None:
    file = study_file()
    sizes = measure({"name": "vit_glyphs"}, {"kind": "digits"})
    default = file.joint_space().default("lora")
    lists = {key: values if isinstance(values, list) else [values] for key, values in FINITE.items()}
    everything = [default | dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    [held] = plan.holdings(file, sizes, 20_000)
    assert held.n_configs == len(everything) == 96
    counts = [sizes.count(config)[0] for config in everything]
    assert set(held.sizes) == set(counts)
    assert list(held.sizes) == sorted(held.sizes)
    assert held.feasible == pytest.approx(sum(n <= 20_000 for n in counts) / len(counts), abs=0.1)


@pytest.mark.slow
def test_each_limit_that_can_be_known_has_its_share_and_what_is_allowed_keeps_them_all() -> None:
    """Against brute force; a limit that only training tells has no share."""
    limits = {"trainable_params": 13_000, "cost/gflops": 0.0093, "cost/latency_ms": 1.0}
    budget = {"n_trials": 20, "epochs": 4, "max_params": 20_000, "limits": limits}
    file = study_file(budget=budget, space=FINITE | {"lora.rank": [1, 32]})
    sizes = measure({"name": "vit_glyphs"}, {"kind": "digits"})
    default = file.joint_space().default("lora")
    structures = [
        default | {"lora.rank": rank, "lora.layers": layers, "lora.targets": targets}
        for rank in (1, 32) for layers in FINITE["lora.layers"] for targets in FINITE["lora.targets"]
    ]  # fmt: skip
    [held] = plan.holdings(file, sizes, 20_000)
    keeps = {
        "adapter_params": [sizes.count(config)[0] <= 20_000 for config in structures],
        "trainable_params": [sum(sizes.count(config)) <= 13_000 for config in structures],
        "cost/gflops": [sizes.gflops(config) <= 0.0093 for config in structures],
    }
    assert held.keeps.keys() == keeps.keys()
    for key, kept in keeps.items():
        assert 0 < sum(kept) < len(kept)
        assert held.keeps[key] == pytest.approx(sum(kept) / len(kept), abs=0.2)  # of 60 draws
    assert held.feasible == pytest.approx(sum(map(all, zip(*keeps.values(), strict=True))) / len(structures), abs=0.2)
    assert all(sizes.gflops(config) <= 0.0093 for config in plan.to_probe(file, sizes, 20_000))


def test_a_continuous_knob_makes_the_space_endless() -> None:
    sizes = measure({"name": "vit_glyphs"}, {"kind": "digits"})
    [held] = plan.holdings(study_file(space=FINITE | {"optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}}), sizes, 20_000)
    assert held.n_configs is None


def test_without_rungs_all_epochs_are_trained() -> None:
    assert plan.epochs(study_file()) == plan.Range(80, 80, 80)


@pytest.mark.slow
def test_with_rungs_the_truth_of_a_search_lies_in_the_range() -> None:
    """Whatever the surface, which the range does not know."""
    budget = {"n_trials": 40, "epochs": 27, "max_params": 50_000}
    search = {"sampler": "auto", "rungs": {"grace": 3, "factor": 3}}
    raw = {"study": "s", "methods": ["lora", "arc", "lily"], "budget": budget, "search": search}
    files = [check(raw | {"data": {"kind": "synthetic", "surface": "crossing", "instance": instance}}) for instance in (7, 8)]
    expected = plan.epochs(files[0])
    assert expected.low < expected.guess < expected.high <= 40 * 27
    for file in files:
        surface, clock = Surface("crossing", file.data.model_dump()["instance"]), VirtualClock()
        study = simulated.create(file, surface, clock)
        simulated.run(study, partial(SurfaceTrainable, surface), clock, n_workers=1)
        assert expected.low <= sum(trial.epochs for trial in study.trials) <= expected.high


def test_what_is_probed_is_possible_and_small_enough() -> None:
    file = study_file()
    sizes = measure({"name": "vit_glyphs"}, {"kind": "digits"})
    configs = plan.to_probe(file, sizes, 20_000)
    assert [config["method"] for config in configs] == ["head_only"] + ["lora"] * 3
    assert all(sizes.count(config)[0] <= 20_000 for config in configs)
    assert len({json.dumps(config, sort_keys=True) for config in configs}) == 4
    assert plan.to_probe(file, sizes, 20_000, seconds=0.0) == configs[:2]  # no time: the first of each method all the same


def test_the_cost_is_epochs_times_seconds_over_slots() -> None:
    predicted = [Predicted({"method": "lora"}, seconds) for seconds in (1.0, 3.0)]
    predicted += [Predicted({"method": "head_only"}, 9.0)]  # the anchor is one trial, and not like the others
    few = {"n_slots": 2, "start_seconds": 36.0, "setup_seconds": 0.5, "memory_bytes": 1e9}
    found = plan.cost(study_file(), predicted, plan.Range(80, 80, 80), **few)  # type: ignore[arg-type]
    assert found.slot_hours.guess == pytest.approx((80 * 2.0 + 20 * 0.5) / 3600)
    assert found.hours.guess == pytest.approx((80 * 2.0 + 20 * 0.5) / 2 / 3600 + 0.01)
    assert found.slot_hours.low == pytest.approx((80 * 1.8 + 20 * 0.5) / 3600)  # at least a tenth below
    assert found.slot_hours.high == pytest.approx((80 * 2.6 + 20 * 0.5) / 3600)  # and three above
    assert found.memory_bytes == 1e9


def test_of_a_study_that_only_hours_end_the_trials_that_fit_in_them_are_told() -> None:
    """Four hours on two slots; a trial takes 80 / MAX_SIMULATED epochs of 2 s, and 0.5 s to set up."""
    file = study_file(budget={"epochs": 4, "max_params": 20_000, "max_hours": 4.0})
    few = {"n_slots": 2, "start_seconds": 36.0, "setup_seconds": 0.5, "memory_bytes": 1e9}
    predicted = [Predicted({"method": "lora"}, seconds) for seconds in (1.0, 3.0)]
    found = plan.cost(file, predicted, plan.Range(80, 80, 80), **few)  # type: ignore[arg-type]
    each = 80 / plan.MAX_SIMULATED * 2.0 + 0.5
    assert found.trials.guess == pytest.approx(8 * 3600 / each)
    assert found.trials.low < found.trials.guess < found.trials.high
    assert found.epochs.guess == pytest.approx(found.trials.guess * 80 / plan.MAX_SIMULATED)
    assert (found.slot_hours.guess, found.hours.guess) == (8.0, pytest.approx(4.01))
    assert plan.epochs(file).guess == 4 * plan.MAX_SIMULATED


def test_a_slow_machine_draws_and_simulates_less_but_never_nothing() -> None:
    file = study_file(search={"sampler": "random", "rungs": {"grace": 1, "factor": 2}})
    sizes = measure({"name": "vit_glyphs"}, {"kind": "digits"})
    told: list[tuple[str, int, int]] = []
    [held] = plan.holdings(file, sizes, 20_000, seconds=0.0, on_done=lambda *what: told.append(what))
    assert len(held.sizes) == plan.FEWEST_DRAWS
    found = plan.epochs(file, seconds=0.0, on_done=lambda *what: told.append(what))
    assert found.low < found.guess <= 80
    assert [what for what, _, _ in told] == ["counting sizes of methods"] + ["simulating searches"] * len(plan.FAMILIES)


def test_memory_is_the_computed_one_scaled_by_what_was_measured() -> None:
    sizes = measure({"name": "vit_glyphs"}, {"kind": "digits"})
    of_lora = sizes.training_bytes({"method": "lora"}, 4)
    speed = Speed(0.0, 0.0, 1.0, 0.0, n_images=4, base_bytes=100.0, peak_bytes=100.0 + 0.5 * of_lora, error=1.0)
    assert plan.peak_bytes(3.0 * of_lora, sizes, speed) == pytest.approx(100.0 + 1.5 * of_lora)


@pytest.mark.slow
def test_the_command_prints_a_plan_and_refuses_what_trains_nothing() -> None:
    done = paretune("digits", "--json", "--slots", "3", "--set", "methods=[arc]", "--set", "space={arc.rank: [2, 5]}")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["n_slots"] == 3
    assert [one["method"] for one in printed["methods"]] == ["arc"]
    cost = printed["cost"]["hours"]
    assert 0 < cost["low"] < cost["guess"] < cost["high"]
    assert {one["config"]["method"] for one in printed["predictions"]} == {"head_only", "arc"}
    assert done.stderr == ""  # a job's output is one stream

    refused = paretune("digits", "--set", "data={kind: synthetic}")
    assert refused.returncode == 2
    assert "a synthetic surface computes nothing: there is no cost to plan" in " ".join(refused.stderr.split())


def test_more_slots_than_fit_are_told() -> None:
    said: list[str] = []
    for slots in (None, 1, 2, 8):
        note_on_slots(slots, 2, "this machine", said.append)
    [note] = said
    assert note.startswith("--slots 8: this machine has room for 2 trials at once")


def paretune(*words: str) -> CompletedProcess[str]:
    return command_line.paretune("plan", *words, cwd=Path.cwd())
