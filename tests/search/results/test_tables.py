"""Laws of tables, pictures, JSON and Parquet: they show the trials they were given, all of them, and nothing else."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from rich.console import Console
from rich.table import Table

from search.front import front, hypervolume
from search.results import arrow_tables, as_json, front_plot, plotly_figures, tables, words
from search.results.saved_study import load
from search.results.words import METHOD_NAMES
from search.storage.rows import StudyRow
from search.storage.sql_ledger import SqlLedger
from search.trial import State, Trial
from spaces import SHARED, SPACES

FACTS = {"n_classes": 10, "backbone_params": 600_000, "max_params": 50_000, "reference_point": [0.1, 50_000]}
STUDY = StudyRow(
    name="flowers",
    uid="0123456789abcdef",
    created=1_790_000_000.0,
    file={"objectives": ["val/top1", "adapter_params"]},
    stored_facts=FACTS,
    budget={},
)
REFERENCE = (0.1, 50_000.0)


def study_of(n_trials: int, seed: int = 0) -> list[Trial]:
    """Trials of every method and state, with ties, sizes over many decades and accuracies far below the front."""
    rng = random.Random(seed)
    trials = []
    for number in range(n_trials):
        method = "head_only" if number == 0 else rng.choice(["lora", "arc", "lily"])
        config = {"method": method} | {k.key: rng.choice(_values(k)) for k in (*SPACES[method].knobs, *SHARED)}
        size = 0 if method == "head_only" else rng.choice([300, 301, 700, 2_000, 5_000, 20_000]) * rng.choice([1, 1, 2])
        top1 = round(800 * min(0.99, rng.choice([0.2, 0.9, 0.9, 0.9]) + rng.gauss(0, 0.02))) / 800
        state = State.COMPLETE if number == 0 else rng.choice([State.COMPLETE] * 4 + [State.PRUNED, State.FAILED, State.RUNNING])
        metrics = {"val/top1": math.nan if state is State.FAILED else top1, "val/loss": 0.5, "cost/train_seconds": 1.25}
        trials.append(Trial(number, state, config, number, size, 970, epochs=3, metrics=metrics, started=1.5, finished=2.5))
    return trials


def _values(knob: object) -> tuple[object, ...]:
    distribution = knob.distribution  # type: ignore[attr-defined]
    return tuple(getattr(distribution, "choices", ())) or (distribution.low, distribution.high)


TRIALS = study_of(60)


def lines_of(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


# -- tables ------------------------------------------------------------------------------------------------------------


def largest(trial: Trial) -> Trial:
    """The same trial with everything as wide as it gets: a whole ViT-H and 21,843 classes."""
    metrics = trial.metrics | {"val/top1": 1.0}
    return replace(trial, number=trial.number + 10_000, adapter_params=632_000_000, head_params=27_959_040, metrics=metrics)


@pytest.mark.parametrize("trials", [TRIALS, [largest(trial) for trial in TRIALS]], ids=["usual", "largest"])
def test_at_80_columns_every_trial_is_one_line_that_fits(trials: list[Trial]) -> None:
    for table, n_rows in ((tables.front_table(trials), len(front(trials))), (tables.trials_table(trials, ()), len(trials))):
        lines = [line for line in lines_of(table) if line.strip()]
        assert len(lines) == n_rows + 2  # the heading and its rule
        assert max(map(len, lines)) <= 80


def test_the_front_table_shows_accuracy_and_both_sizes_of_every_member_smallest_first() -> None:
    rows = [line for line in lines_of(tables.front_table(TRIALS)) if line.strip()][2:]
    for row, trial in zip(rows, front(TRIALS), strict=True):
        assert row.split()[0] == f"{trial.number:04d}"
        assert row.split()[-3:] == [f"{trial.adapter_params:,}", "970", f"{100 * trial.metrics['val/top1']:.2f}"]


def test_the_front_shows_how_likely_a_member_is_truly_on_it_where_that_is_known() -> None:
    members = front(TRIALS)
    odds = {member.number: 0.125 * n for n, member in enumerate(members, 1)}
    rows = [line for line in lines_of(tables.front_table(TRIALS, odds=odds)) if line.strip()]
    assert rows[0].split()[-1] == "P(front)"
    assert [row.split()[-1] for row in rows[2:]] == [f"{odds[member.number]:.2f}" for member in members]
    assert tables.front_markdown(TRIALS, odds=odds).splitlines()[2].endswith(f"| {odds[members[0].number]:.2f} |")
    figure = plotly_figures.front_figure(TRIALS, REFERENCE, odds=odds)
    told = [text for trace in figure["data"] for text in trace.get("text", ()) if "truly on the front" in text]
    assert len(told) == len(members)


def test_the_table_of_all_trials_marks_the_front() -> None:
    table = tables.trials_table(TRIALS, {one.number for one in front(TRIALS)})
    rows = [line.split() for line in lines_of(table) if line.strip()][2:]
    assert [int(row[0].rstrip("*")) for row in rows] == [trial.number for trial in TRIALS]
    assert {int(row[0][:-1]) for row in rows if row[0].endswith("*")} == {trial.number for trial in front(TRIALS)}


def test_at_80_columns_the_knobs_that_tell_trials_of_a_method_apart_are_whole() -> None:
    config = {"method": "lora", "lora.rank": 8, "lora.targets": "qkvo_mlp", "lora.layers": "first-4", "lora.scale": 0.1}
    config |= {"optim.lr": 3.8e-3, "optim.weight_decay": 0.0, "lora.dropout": 0.05, "recipe.drop_path": 0.05}
    differ = ({}, {"optim.weight_decay": 0.01}, {"lora.dropout": 0.1}, {"lora.dropout": 0.1, "optim.weight_decay": 0.01})
    trials = [replace(TRIALS[0], number=number, config=config | one) for number, one in enumerate(differ)]
    other = replace(TRIALS[0], number=9, config={"method": "head_only", "optim.lr": 0.01})
    rows = [line.split()[3:5] for line in lines_of(tables.trials_table([*trials, other], ())) if line.strip()][2:]
    assert rows[:4] == [["drop=0.05", "wd=0"], ["drop=0.05", "wd=0.01"], ["drop=0.1", "wd=0"], ["drop=0.1", "wd=0.01"]]
    assert words.telling_apart([trials[0], replace(trials[0], seed=5)]) == []
    assert words.telling_apart([other]) == []


def test_at_80_columns_no_heading_number_or_method_is_cut() -> None:
    names = ("study", "method", "trials", "epochs", "front", "best %", "hypervolume", "contribution")
    table = tables.numbers_table(names, n_words=2)
    table.add_row("a-study-with-a-long-name", "peft.fourierft", "1,000", "30,000", "12", "100.00", "12.3456", "12.3456")
    lines = lines_of(table)
    assert max(map(len, lines)) <= 80
    shown = " ".join(lines)
    assert "…" not in shown
    assert all(word in shown.split() for name in names for word in name.split())
    assert {"12.3456", "30,000", "peft.fourierft"} <= set(shown.split())


def test_knobs_are_named_in_short_and_sizes_come_first() -> None:
    config = {"method": "lily", "lily.scale": 10.0, "lily.targets": "kv", "lily.n_experts": 4, "lily.rank": 8}
    config |= {"lily.layers": "last-2", "lily.temperature": 0.5, "optim.lr": 1e-3}
    trial = replace(TRIALS[0], config=config)
    assert words.describe_knobs(trial) == "r8 e4 kv last-2 lr=1e-3 s=10 T=0.5"


@pytest.mark.parametrize(("lr", "shown"), [(1e-4, "1e-4"), (0.00123, "1.2e-3"), (0.02, "0.02"), (1.0, "1"), (0.0, "0")])
def test_numbers_are_short(lr: float, shown: str) -> None:
    assert words.describe_knobs(replace(TRIALS[0], config={"method": "head_only", "optim.lr": lr})) == f"lr={shown}"


def test_the_markdown_table_has_one_row_per_member_and_links_where_they_are_given() -> None:
    members = front(TRIALS)
    lines = tables.front_markdown(TRIALS, links={members[0].number: "#/run/1"}).splitlines()
    assert len(lines) == 2 + len(members)
    assert {line.count("|") for line in lines} == {7}
    assert f"[{members[0].number:04d}](#/run/1)" in lines[2]
    assert all("](" not in line for line in lines[3:])


# -- JSON --------------------------------------------------------------------------------------------------------------


def test_the_json_of_a_trial_has_the_fields_that_others_build_on() -> None:
    named = "trial state method config epochs rung reason n_attempts adapter_params head_params metrics"
    for trial in TRIALS:
        told = as_json.trial_json(trial)
        assert set(named.split()) <= set(told)
        read = json.loads(json.dumps(told, allow_nan=False))  # a NaN is null, because JSON has none
        assert read == told
        assert (read["trial"], read["state"], read["config"]) == (trial.number, trial.state.value, trial.config)


def test_the_json_of_the_front_has_the_fields_that_others_build_on() -> None:
    told = as_json.front_json(STUDY, TRIALS)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told == {
        "study": "flowers",
        "objectives": ["val/top1", "adapter_params"],
        "reference_point": [0.1, 50_000.0],
        "hypervolume": hypervolume(TRIALS, REFERENCE),
        "members": [as_json.trial_json(trial) | {"p_front": None} for trial in front(TRIALS)],
        "extended": [],
    }
    odds = {front(TRIALS)[0].number: 0.25}
    assert as_json.front_json(STUDY, TRIALS, odds)["members"][0]["p_front"] == 0.25


# -- Parquet -----------------------------------------------------------------------------------------------------------


def test_parquet_read_back_equals_the_trials(tmp_path: Path) -> None:
    arrow_tables.write_parquet(arrow_tables.trials_arrow(TRIALS, study=STUDY), tmp_path / "trials.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["trials.parquet"]
    rows = pq.read_table(tmp_path / "trials.parquet").to_pylist()
    members = front(TRIALS)
    for row, trial in zip(rows, TRIALS, strict=True):
        assert row["front"] == (trial in members)
        assert (row["trial"], row["state"], row["label"]) == (trial.number, trial.state.value, trial.label)
        assert {key: row[key] for key in trial.config} == trial.config
        assert str({key: row[key] for key in trial.metrics}) == str(dict(trial.metrics))  # NaN is not itself
        knobs = {key for key, value in row.items() if key.split(".")[0] in SPACES and value is not None}
        assert knobs == {key for key in trial.config if key.split(".")[0] in SPACES}
        for name in ("adapter_params", "head_params", "epochs", "rung", "reason", "n_attempts", "seed", "started", "finished"):
            assert row[name] == getattr(trial, name)


def test_parquet_says_its_schema_its_study_and_its_units(tmp_path: Path) -> None:
    arrow_tables.write_parquet(arrow_tables.trials_arrow(TRIALS, study=STUDY), tmp_path / "trials.parquet")
    schema = pq.read_schema(tmp_path / "trials.parquet")
    assert schema.metadata[b"paretune.schema_version"] == str(arrow_tables.SCHEMA_VERSION).encode()
    assert schema.metadata[b"paretune.study"] == b"flowers"
    assert schema.metadata[b"paretune.study_uid"] == STUDY.uid.encode()
    assert schema.field("adapter_params").metadata[b"unit"] == b"parameters"
    assert schema.field("val/top1").metadata[b"unit"] == b"fraction"
    assert schema.field("lora.rank").metadata[b"unit"] == b"dimensions"


def test_a_knob_that_takes_numbers_and_names_is_kept_as_json(tmp_path: Path) -> None:
    values = ["all", 2, 0.5, True, None]
    trials = [replace(TRIALS[0], number=n, config={"method": "lora", "lora.layers": v}) for n, v in enumerate(values)]
    column = arrow_tables.trials_arrow(trials)["lora.layers"].to_pylist()
    assert [None if text is None else json.loads(text) for text in column] == values


def test_no_trials_make_an_empty_table(tmp_path: Path) -> None:
    arrow_tables.write_parquet(arrow_tables.trials_arrow([]), tmp_path / "trials.parquet")
    assert pq.read_table(tmp_path / "trials.parquet").num_rows == 0


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_trials_give_the_same_picture(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        front_plot.plot_front(TRIALS, tmp_path / f"{name}{suffix}", title="flowers", reference_point=REFERENCE)
    first, second = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "trials",
    [
        [],
        TRIALS[:1],
        [t for t in TRIALS if t.state is not State.COMPLETE],
        [t for t in TRIALS if t.adapter_params],
        [replace(TRIALS[0], number=n) for n in range(3)],
        [replace(t, metrics={"val/top1": 1.0}) for t in TRIALS if t.state is State.COMPLETE],
        [replace(t, config={"method": f"method_{t.number % 20}"}) for t in TRIALS],
    ],
    ids=["nothing", "head only", "nothing complete", "no head only", "twins", "all perfect", "many unknown methods"],
)
@pytest.mark.parametrize("reference_point", [None, REFERENCE])
def test_any_study_can_be_drawn(trials: list[Trial], reference_point: tuple[float, float] | None) -> None:
    drawn(trials, reference_point)


@pytest.mark.parametrize("seed", range(6))
def test_names_of_members_do_not_cover_each_other(seed: int) -> None:
    trials = study_of(120, seed)
    figure, names = drawn(trials, REFERENCE)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    window = figure.axes[0].get_window_extent(renderer)
    boxes = []
    for name in names:
        name.arrow_patch = None  # the words alone
        boxes.append(name.get_window_extent(renderer))
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(window.x0 <= box.x0 and box.x1 <= window.x1 for box in boxes)
    assert len(names) >= min(4, len(front(trials)))


def test_every_member_lies_in_the_picture_at_its_accuracy() -> None:
    figure, _ = drawn(TRIALS, REFERENCE)
    axes = figure.axes[0]
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    points = {(round(x, 6), round(y, 6)) for line in axes.lines for x, y in line.get_xydata().tolist()}  # type: ignore[union-attr]
    for trial in front(TRIALS):
        accuracy = round(100 * trial.metrics["val/top1"], 6)
        found = [x for x, y in points if y == accuracy]
        assert low < accuracy < high
        assert any(left < x < right for x in found)
        if trial.adapter_params:
            assert round(math.log10(1 + trial.adapter_params), 6) in found


def drawn(trials: list[Trial], reference_point: tuple[float, float] | None) -> tuple[Figure, list[Annotation]]:
    figure = Figure(figsize=(9.0, 5.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure).draw()
    front_plot.draw_front(figure, trials, title="flowers", reference_point=reference_point)
    figure.canvas.draw()
    return figure, [text for text in figure.axes[0].texts if isinstance(text, Annotation)]


# -- reading back ------------------------------------------------------------------------------------------------------


def test_a_loaded_study_is_the_ledger_as_it_stood(tmp_path: Path) -> None:
    file = {"study": "s", "budget": {"n_trials": 1, "epochs": 2}, "objectives": ["val/top1", "adapter_params"]}
    ledger = SqlLedger.create(tmp_path / "s" / "ledger.db", name="s", file=file, facts=FACTS, now=lambda: 1_790_000_000.0)
    with ledger.decision() as writer:
        trial = writer.start(Trial(0, State.RUNNING, {"method": "lora", "lora.rank": 2}, 7, 300, 10))
        trial = writer.report(trial, 1, {"val/top1": 0.5})
    before = load(tmp_path / "s")
    with ledger.decision() as writer:
        trial = writer.finish(writer.report(trial, 2, {"val/top1": 0.75}), State.COMPLETE)
    ledger.close()
    after = load(tmp_path / "s")
    assert (before.state, before.members, before.trials()["epochs"].to_pylist()) == ("RUNNING", (), [1])
    assert (after.state, after.members, after.history) == ("FINISHED", (trial,), (trial,))
    assert after.reports().to_pylist() == [
        {"trial": 0, "epoch": epoch, "time": 1_790_000_000.0, "val/top1": top1} for epoch, top1 in ((1, 0.5), (2, 0.75))
    ]
    assert isinstance(after.front(), pa.Table)
    assert after.hypervolume == hypervolume([trial], REFERENCE)
    after.plot_front(tmp_path / "front.svg")
    assert "<svg" in (tmp_path / "front.svg").read_text()


def test_showing_a_study_imports_none_of_the_large_libraries() -> None:
    large = "{'torch', 'ray', 'optuna', 'mlflow'}"
    program = f"import sys, search.results.tables, search.results.saved_study; sys.exit(' '.join({large} & {{*sys.modules}}))"
    outcome = subprocess.run([sys.executable, "-c", program], check=False, timeout=240, capture_output=True, text=True)
    assert outcome.stderr.strip() == ""


def test_costs_are_told_with_their_units_and_nothing_else_is() -> None:
    metrics = {
        "val/top1": 0.5,
        "cost/gflops": 35.126,
        "cost/step_seconds": 0.25,
        "cost/peak_memory_bytes": 1.5 * 2**30,
        "cost/new": 2.0,
    }
    assert tables.costs(metrics) == [
        ("cost/gflops", "35.13 GFLOPs per image"),
        ("cost/step_seconds", "0.25 seconds"),
        ("cost/peak_memory_bytes", "1.50 GiB"),
        ("cost/new", "2"),
    ]


def test_every_packaged_method_has_a_name_for_people() -> None:
    assert set(METHOD_NAMES) == set(SPACES)
