"""The command line as a person or another program meets it: real processes, real output, real exit codes."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import spaces
from cluster.jobs import SHORT_JOB
from search.cli.cluster import NOT_YET
from search.results.saved_study import load
from search.trial import State

from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

SYNTHETIC = """
study: syn
data: {kind: synthetic, noise: 0.01, diverges_above_lr: 0.015}
methods: [lora, arc, lily]
budget: {n_trials: 14, epochs: 3, max_params: 20_000}
"""

N_CUT = 16  # trials of a search that is interrupted after the first


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """A folder in which a synthetic study has been run by the command, and what the command said."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "syn.yaml").write_text(SYNTHETIC)
    with_mlflow_database(folder / "paretune-studies")
    return folder, paretune("run", "syn.yaml", "--back-end", "in-process", cwd=folder)


@pytest.fixture(scope="module")
def searched(run: tuple[Path, CompletedProcess[str]]) -> Path:
    """The folder of the study that was run."""
    folder, done = run
    assert done.returncode == 0, done.stderr
    return folder


def test_run_prints_a_plain_line_per_trial_then_the_front_and_where_everything_lies(
    run: tuple[Path, CompletedProcess[str]],
) -> None:
    folder, done = run
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert sum(line.startswith("[") for line in lines) == 14
    assert "[14/14]" in done.stdout
    assert "adapter" in done.stdout
    for name in ("front.png", "front.parquet", "trials.parquet", "ledger.db", "paretune.log"):
        path = folder / "paretune-studies" / "syn" / name
        assert path.stat().st_size > 0
        assert f"syn/{name}" in done.stdout
    assert "\x1b[" not in done.stdout
    assert done.stderr == ""


def test_running_a_finished_study_again_prints_its_front_and_trains_nothing(searched: Path) -> None:
    before = load(searched / "paretune-studies" / "syn")
    again = paretune("run", "syn.yaml", "--back-end", "in-process", cwd=searched)
    assert again.returncode == 0
    assert not any(line.startswith("[") for line in again.stdout.splitlines())
    assert f"Hypervolume {before.hypervolume:.4f}" in again.stdout
    assert load(searched / "paretune-studies" / "syn") == before


def test_json_is_what_the_ledger_holds(searched: Path) -> None:
    study = load(searched / "paretune-studies" / "syn")
    front = json.loads(paretune("front", "syn", "--json", cwd=searched).stdout)
    assert front["study"] == "syn"
    assert front["objectives"] == ["val/top1", "adapter_params"]
    assert front["reference_point"] == [0.1, 20_000]
    assert front["hypervolume"] == pytest.approx(study.hypervolume, abs=1e-12)
    assert [member["trial"] for member in front["members"]] == [trial.number for trial in study.members]
    trials = json.loads(paretune("trials", "syn", "--json", cwd=searched).stdout)
    keys = [
        "trial",
        "state",
        "method",
        "config",
        "epochs",
        "rung",
        "reason",
        "n_attempts",
        "adapter_params",
        "head_params",
        "metrics",
    ]
    assert all(set(keys) <= set(trial) for trial in trials)
    assert [trial["trial"] for trial in trials] == list(range(14))
    best = json.loads(paretune("trials", "syn", "--method", "arc", "--top", "3", "--sort", "size", "--json", cwd=searched).stdout)
    mine = [trial for trial in study.history if trial.method == "arc" and trial.state is State.COMPLETE]
    wanted = sorted(mine, key=lambda trial: (-trial.metrics["val/top1"], trial.size))[:3]
    assert [trial["trial"] for trial in best] == [trial.number for trial in sorted(wanted, key=lambda trial: trial.size)]
    none = paretune("trials", "syn", "--method", "larc", cwd=searched)
    assert (none.returncode, none.stderr) == (2, "paretune: --method larc: study syn has no trial of this method\n")
    ordered = json.loads(paretune("trials", "syn", "--sort", "accuracy", "--json", cwd=searched).stdout)
    top1s = [-1.0 if (top1 := trial["metrics"].get("val/top1")) is None else top1 for trial in ordered]  # None: diverged
    assert top1s == sorted(top1s, reverse=True)
    last = study.members[-1]
    [at] = json.loads(paretune("front", "syn", "--at", f"{last.size - 1}", "--json", cwd=searched).stdout)["members"]
    assert at["trial"] == study.members[-2].number
    shown = json.loads(paretune("show", "syn", "3", "--json", cwd=searched).stdout)
    assert shown["config"] == study.history[3].config
    assert [report["epoch"] for report in shown["reports"]] == [1, 2, 3][: shown["epochs"]]
    rejected = json.loads(paretune("trials", "syn", "--rejected", "--json", cwd=searched).stdout)
    assert all(set(one) == {"config", "reason"} for one in rejected)
    listed = json.loads(paretune("ls", "--json", cwd=searched).stdout)
    assert {"name": "syn", "state": "finished", "path": "paretune-studies/syn"} in listed["studies"]
    methods = json.loads(paretune("methods", "--json", cwd=searched).stdout)
    assert [row["method"] for row in methods["methods"]] == [*spaces.SPACES, *spaces.peft.tuners()]


@pytest.mark.parametrize("command", [["front", "syn"], ["trials", "syn"], ["show", "syn", "0"], ["ls"], ["methods"]])
def test_the_tables_fit_eighty_columns(searched: Path, command: list[str]) -> None:
    printed = paretune(*command, cwd=searched, columns=80)
    assert printed.returncode == 0
    assert max(len(line) for line in printed.stdout.splitlines()) <= 80


def test_count_gives_the_papers_figures_apart_from_the_head(tmp_path: Path) -> None:
    arguments = ["count", "--method", "lora", "--backbone", "vit_base_patch16_224", "--set", "rank=8", "--json"]
    counted = json.loads(paretune(*arguments, cwd=tmp_path).stdout)
    assert set(counted) >= {"method", "backbone", "config", "adapter_params", "head_params"}
    assert counted["config"]["rank"] == 8
    assert counted["adapter_params"] == 294_912
    assert counted["head_params"] == 769_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: neither a file nor a packaged study"),
        (["run", "--set", "methods=[loar]"], "did you mean lora?"),
        (["run", "--set", "budget.n_trials=0"], "budget.n_trials: must be above 0"),
        (["front", "nothing"], "does not exist"),
        (["count", "--method", "loar"], "did you mean lora?"),
        (["count", "--method", "lora", "--set", "rank=100000"], "rank"),
        (["count", "--method", "lora", "--set", "rank"], "an override must have the form knob=value"),
        (["count", "--method", "lora", "--backbone", "vit_bse_patch16_224"], "vit_base_patch16_224"),
    ],
)
def test_a_wrong_request_is_one_clear_message_and_exit_code_two(tmp_path: Path, arguments: list[str], message: str) -> None:
    refused = paretune(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_short_job_tells_a_study_that_its_first_job_has_not_made_yet_from_one_that_nobody_makes(tmp_path: Path) -> None:
    assert paretune("front", "nothing", cwd=tmp_path).returncode == 2
    not_yet = paretune("front", "nothing", cwd=tmp_path, **{SHORT_JOB: "nothing-1"})
    assert (not_yet.returncode, not_yet.stdout, not_yet.stderr) == (NOT_YET, "", "")


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    done = paretune("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"paretune {project['version']}\n")


def test_a_trial_that_does_not_exist_is_refused(searched: Path) -> None:
    refused = paretune("show", "syn", "99", cwd=searched)
    assert refused.returncode == 2
    assert "no trial 99: study syn has trials 0 to 13" in refused.stderr


def test_another_file_for_an_existing_study_is_refused_with_the_difference(searched: Path) -> None:
    refused = paretune("run", "syn.yaml", "--set", "budget.epochs=4", "--back-end", "in-process", cwd=searched)
    assert refused.returncode == 2
    assert "budget.epochs: 3 -> 4" in refused.stderr


def test_a_search_in_which_every_trial_fails_exits_with_one(tmp_path: Path) -> None:
    (tmp_path / "syn.yaml").write_text(SYNTHETIC.replace("0.015", "1e-9"))
    with_mlflow_database(tmp_path / "paretune-studies")
    failed = paretune("run", "syn.yaml", "--set", "budget.n_trials=4", "--back-end", "in-process", cwd=tmp_path)
    assert failed.returncode == 1
    assert "train/loss is nan" in failed.stdout or "val/top1 is nan" in failed.stdout


def test_a_search_that_ends_early_says_why(searched: Path) -> None:
    early = ["--set", "study=early", "--set", "budget.stall_trials=3", "--set", "budget.n_trials=500"]
    early += ["--set", "search.sampler=random"]
    done = paretune("run", "syn.yaml", *early, "--back-end", "in-process", cwd=searched)
    assert done.returncode == 0
    assert "Ended before its 500 trials: the front has not moved for 3 trials (budget.stall_trials)" in done.stdout
    assert load(searched / "paretune-studies" / "early").state == "FINISHED"


def test_an_interrupted_search_goes_on_where_it_stopped_and_ends_the_same(searched: Path) -> None:
    """SIGINT in the middle of a real search, then the same command again: the trials of an uninterrupted run."""
    slow = ["--set", "data.epoch_seconds=0.05", "--set", f"budget.n_trials={N_CUT}"]
    run = ["run", "syn.yaml", *slow, "--back-end", "in-process", "--set"]
    assert paretune(*run, "study=whole", cwd=searched).returncode == 0
    command = [sys.executable, "-m", "search.cli", *run, "study=cut"]
    process = subprocess.Popen(command, cwd=searched, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("["):
            break
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "interrupted" in complaint
    assert "Traceback" not in complaint, complaint
    cut = load(searched / "paretune-studies" / "cut")
    assert len(cut.history) < N_CUT
    assert cut.state == "INTERRUPTED"
    assert paretune(*run, "study=cut", cwd=searched).returncode == 0

    def outcome(name: str) -> list[tuple[object, ...]]:
        history = load(searched / "paretune-studies" / name).history
        return [(t.number, t.state, t.config, t.epochs, {k: str(v) for k, v in t.metrics.items()}) for t in history]

    assert outcome("cut") == outcome("whole")


def test_help_and_reading_commands_import_none_of_the_heavy_libraries(searched: Path) -> None:
    program = (
        "import sys\nfrom search.cli.app import app\n"
        "def loaded(*names):\n    return sorted(set(names) & set(sys.modules))\n"
        "def called(*arguments):\n"
        "    sys.argv = ['paretune', *arguments]\n"
        "    try:\n        app()\n"
        "    except SystemExit as end:\n        assert not end.code, arguments\n"
        "called('--help')\ncalled('run', '--help')\n"
        "assert not loaded('torch', 'ray', 'mlflow', 'optuna', 'timm', 'pandas'), loaded(*sys.modules)\n"
        "for arguments in (['front', 'syn'], ['trials', 'syn'], ['ls']):\n"
        "    called(*arguments, '--json')\n"
        "    assert not loaded('torch', 'ray', 'mlflow'), arguments\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=searched, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"study": "syn"' in done.stdout


def test_a_copied_packaged_study_is_valid_and_says_so_resolved(tmp_path: Path) -> None:
    copied = paretune("cp", "digits", cwd=tmp_path)
    assert copied.returncode == 0
    editors, begins, *_ = (tmp_path / "digits.yaml").read_text().splitlines()
    assert editors.startswith("# yaml-language-server: $schema=/")
    assert begins.startswith("# Which adapter is worth training")
    resolved = paretune("validate", "digits.yaml", "--set", "search.seed=3", cwd=tmp_path)
    assert resolved.returncode == 0
    assert "seed: 3" in resolved.stdout
    assert "warmup_fraction: 0.1" in resolved.stdout
    (tmp_path / "again.yaml").write_text(resolved.stdout)
    assert paretune("validate", "again.yaml", cwd=tmp_path).stdout == resolved.stdout
    refused = paretune("cp", "digits", cwd=tmp_path)
    assert refused.returncode == 2
    assert "digits.yaml exists" in refused.stderr


def test_validate_tells_every_problem_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("study: s\ndata: {kind: digits}\nmethods: [lroa]\nbudget: {n_trials: 0}\n")
    refused = paretune("validate", "bad.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    places = [line.split(": ")[1 if n == 0 else 0] for n, line in enumerate(refused.stderr.splitlines())]
    assert places == ["bad.yaml:3", "bad.yaml:4", "bad.yaml:4"]


def test_a_finished_study_is_extended_by_name_and_its_events_tell(searched: Path) -> None:
    storage = searched / "paretune-studies"
    made = paretune(
        "run", "syn.yaml", "--set", "study=longer", "--set", "budget.n_trials=6", "--back-end", "in-process", cwd=searched
    )
    assert made.returncode == 0
    longer = paretune("resume", "longer", "--more-trials", "3", "--back-end", "in-process", cwd=searched)
    assert longer.returncode == 0, longer.stderr
    assert "9 trials of" in longer.stdout
    assert "[9/9]" in longer.stdout
    saved = load(storage / "longer")
    assert (len(saved.history), saved.state, saved.row.budget["n_trials"]) == (9, "FINISHED", 9)
    again = paretune(
        "run", "syn.yaml", "--set", "study=longer", "--set", "budget.n_trials=6", "--back-end", "in-process", cwd=searched
    )
    assert again.returncode == 0
    assert not any(line.startswith("[") for line in again.stdout.splitlines())
    statuses, notes = zip(*recorded_runs(storage / "mlflow.db", "longer"), strict=True)
    assert len(statuses) == 1 + 9
    assert "RUNNING" not in statuses
    assert any("9 of 9 trials" in str(note) for note in notes)
    told = paretune("events", "longer", cwd=searched).stdout
    assert "extended" in told
    assert "n_trials 9" in told
    events = json.loads(paretune("events", "longer", "--json", cwd=searched).stdout)
    assert [event["number"] for event in events] == list(range(len(events)))
    assert {"opened", "started", "reported", "completed", "extended"} <= {event["kind"] for event in events}


def recorded_runs(database: Path, experiment: str) -> list[tuple[str, str | None]]:
    """(status, note) of each of an experiment's runs, read from MLflow's own tables."""
    query = (
        "select runs.status, tags.value from runs join experiments on experiments.experiment_id = runs.experiment_id "
        "left join tags on tags.run_uuid = runs.run_uuid and tags.key = 'mlflow.note.content' where experiments.name = ?"
    )
    with contextlib.closing(sqlite3.connect(database)) as connection:
        return connection.execute(query, (experiment,)).fetchall()


def test_what_cannot_be_resumed_is_said(searched: Path) -> None:
    nothing = paretune("resume", "nothing", cwd=searched)
    assert nothing.returncode == 2
    assert "does not exist" in nothing.stderr
    cut = paretune("resume", "syn", "--max-hours", "0", "--back-end", "in-process", cwd=searched)
    assert cut.returncode == 2
    assert "a budget can only grow" in cut.stderr


def test_a_command_that_prints_nothing_for_a_while_says_that_it_is_at_work(tmp_path: Path) -> None:
    program = (
        "import threading\n"
        "from search.cli import silence\n"
        "silence._FIRST, silence._NEXT = 0.2, 60.0\n"
        "silence.tell_silence('plan')\n"
        "print('begun')\n"
        "threading.Event().wait(0.6)\n"
        "silence.stop_telling()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout == "begun\n"
    assert done.stderr == "paretune plan: at work, 0 s\n"
