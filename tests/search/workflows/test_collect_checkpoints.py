"""Which checkpoints are kept."""

import json
import os
from pathlib import Path

from search.backends import in_process
from search.config.loading import check
from search.front import front
from search.study.extension import Extension
from search.study.study import Study
from search.workflows import collect_checkpoints
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from ..command_line import paretune
from ..studies import next_trial


def run_study(storage: Path) -> Study:
    raw = {"study": "s", "data": {"kind": "synthetic"}, "methods": ["lora", "arc"], "storage": str(storage)}
    study = Study.create(check(raw | {"budget": {"n_trials": 12, "epochs": 2, "max_params": 20_000}}), SyntheticSizes())
    in_process.run(study, SyntheticTrainable())
    return study


def test_the_front_and_what_goes_on_keep_their_checkpoints_and_the_rest_is_collected(tmp_path: Path) -> None:
    study = run_study(tmp_path)
    members = {trial.number for trial in front(study.trials)}
    study.extend(Extension(more_trials=1))
    going_on = next_trial(study)
    SyntheticTrainable().start(going_on.config, seed=0, epochs=2, folder=study.checkpoint_folder(going_on.number))
    study.checkpoint_folder(going_on.number).mkdir()
    (study.checkpoint_folder(going_on.number) / "epoch.json").write_text(json.dumps({"epoch": 1}))
    draft = study.checkpoint_folder(min(members)) / ".epoch.json.half"  # of a worker that was killed
    draft.write_text("{")
    kept = members | {going_on.number}
    gone = tuple(trial.number for trial in study.trials if trial.number not in kept)
    assert gone
    size = len('{"epoch": 2}')
    expected = collect_checkpoints.Collection(gone, len(gone) * size + 1, len(kept) * size, drafts=1)
    running = collect_checkpoints.collect(study.folder, dry_run=True, complete=True)  # a live worker may be writing it
    assert (running.drafts, running.freed_bytes) == (0, len(gone) * size)
    study.close()
    assert collect_checkpoints.collect(study.folder, dry_run=True, complete=True) == expected
    exportable = collect_checkpoints.collect(study.folder, dry_run=True)
    assert (exportable.trials, exportable.complete, exportable.complete_bytes) == ((), gone, len(gone) * size)
    assert exportable.freed_bytes + exportable.kept_bytes == expected.freed_bytes + expected.kept_bytes
    assert all(study.checkpoint_folder(number).exists() for number in gone)
    assert collect_checkpoints.collect(study.folder, complete=True) == expected
    assert not draft.exists()
    left = {int(folder.name) for folder in (study.folder / "trials").iterdir()}
    assert left == kept
    assert collect_checkpoints.collect(study.folder) == collect_checkpoints.Collection((), 0, len(kept) * size)


def test_a_complete_trial_can_be_exported_after_gc_unless_its_deletion_was_asked_for(tmp_path: Path) -> None:
    study = run_study(tmp_path)
    study.close()
    kept = paretune("gc", "s", "--storage", str(tmp_path), cwd=tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert kept.stdout.startswith("0 checkpoints, 0.0 MiB deleted")
    n_others = len(study.trials) - len(front(study.trials))
    assert f"{n_others} complete trials outside of the front: --complete deletes them." in kept.stdout
    assert all(study.checkpoint_folder(trial.number).exists() for trial in study.trials)
    deleted = paretune("gc", "s", "--complete", "--storage", str(tmp_path), cwd=tmp_path)
    assert deleted.stdout.startswith(f"{n_others} checkpoints,")
    assert sum(study.checkpoint_folder(trial.number).exists() for trial in study.trials) == len(front(study.trials))


def test_drafts_that_killed_processes_left_are_removed_once_nothing_has_changed_them_for_an_hour(tmp_path: Path) -> None:
    study = run_study(tmp_path)
    study.close()
    left = [
        study.folder / ".1a2b3c4d.front.parquet",
        study.folder / ".ledger.db.1a2b3c4d-wal",
        tmp_path / ".mlflow.db.1a2b3c4d.new",
    ]
    for draft in left:
        draft.write_text("half")
    (adapter := study.folder / "adapters" / ".0003.1a2b3c4d").mkdir(parents=True)
    (adapter / "card.json").write_text("half")
    kept = [study.folder / ".recorder.lock", study.folder / ".5e6f7a8b.front.parquet"]  # no draft, and one that is being written
    for file in kept:
        file.write_text("")
    for draft in (*left, adapter, kept[0]):
        os.utime(draft, (1.0, 1.0))
    found = collect_checkpoints.collect(study.folder, dry_run=True)
    assert found.drafts == 4
    assert collect_checkpoints.collect(study.folder) == found
    assert [path for path in (*left, adapter) if path.exists()] == []
    assert all(file.exists() for file in kept)
    assert collect_checkpoints.collect(study.folder).drafts == 0
