"""What one would write without Paretune: Tune, Optuna and MLflow as their own documentation puts them together.

Every epoch is reported with a checkpoint, failed trials are tried again, and a search that was cut off is restored.
`chaos.py --plain` kills it; here it only notes, outside of all three, what was trained and what the driver was told had ended.

    python benchmarks/plain_tune.py FOLDER N_TRIALS EPOCH_SECONDS
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EPOCHS = 5


def note(path: Path, **what: Any) -> None:
    """One more line, on the disk before anything else happens."""
    with path.open("a") as file:
        file.write(json.dumps(what) + "\n")
        file.flush()
        os.fsync(file.fileno())


def train(config: dict[str, Any]) -> None:
    """One trial: a curve towards what the configuration is worth."""
    from ray import tune

    epoch, folder = 0, Path(config["folder"])
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as saved:
            epoch = json.loads((Path(saved) / "epoch.json").read_text())["epoch"]
    point = {"rank": config["rank"], "lr": config["lr"]}
    while epoch < EPOCHS:
        time.sleep(config["epoch_seconds"])
        epoch += 1
        note(folder / "trained.jsonl", trial=tune.get_context().get_trial_id(), epoch=epoch, time=time.time(), **point)
        top1 = (0.9 - 0.3 / config["rank"] - abs(config["lr"] - 0.003)) * epoch / EPOCHS
        with tempfile.TemporaryDirectory() as saved:
            (Path(saved) / "epoch.json").write_text(json.dumps({"epoch": epoch}))
            tune.report({"top1": top1, "params": 1000 * config["rank"]}, checkpoint=tune.Checkpoint.from_directory(saved))


def main() -> None:
    folder, n_trials, epoch_seconds = Path(sys.argv[1]).absolute(), int(sys.argv[2]), float(sys.argv[3])
    import optuna
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    class Told(tune.Callback):  # type: ignore[misc]
        """Notes which trials the driver knows to have ended."""

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            note(folder / "told.jsonl", trial=trial.trial_id, time=time.time(), rank=trial.config["rank"], lr=trial.config["lr"])

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    experiment = folder / "tune" / "s"
    if tune.Tuner.can_restore(str(experiment)):
        tuner = tune.Tuner.restore(str(experiment), trainable=train, resume_unfinished=True, resume_errored=True)
    else:
        space = {
            "rank": tune.randint(1, 65),
            "lr": tune.loguniform(1e-4, 1e-1),
            "folder": str(folder),
            "epoch_seconds": epoch_seconds,
        }
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
        tuner = tune.Tuner(
            train,
            param_space=space,
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(metric=["top1", "params"], mode=["max", "min"], storage=storage, study_name="s", seed=0),
                num_samples=n_trials,
                max_concurrent_trials=2,
            ),
            run_config=tune.RunConfig(
                name="s",
                storage_path=str(folder / "tune"),
                failure_config=tune.FailureConfig(max_failures=3),
                callbacks=[MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="s"), Told()],
                verbose=0,
            ),
        )
    results = tuner.fit()
    ended = [result.metrics["trial_id"] for result in results if result.error is None and result.metrics]
    (folder / "results.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main()
