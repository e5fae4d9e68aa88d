"""The Ray Tune trainable: one warm actor that runs trial after trial. The only file of `trainables` that imports Ray."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainables import make
from trainables.folder import FencedFolder, Folder, RunFolder, Superseded, Unwritable
from trainables.imports import large_imports
from trainables.protocol import Changed, Stopped, Trainable, is_out_of_memory, limit_gpu_memory

with large_imports():
    from ray import tune


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """A Ray Tune trainable whose step is one epoch; `reset_config` lets the next trial reuse frozen backbone and decoded data.

    A step returns one JSON string under `report`: `{"trial", "epoch", "metrics"}`, `{"trial", "stopped"}` (by its stop flag, or
    because another worker has the trial), `{"trial", "unseen"}` (the study's folder, which this node cannot see), `{"trial",
    "changed"}` (the data or weights here are not those with which the study began), `{"trial", "unwritable"}` (the folder cannot be
    written) or `{"trial", "failure", "memory"}` (`memory` is true if it ran out of memory). Failures are reported as results
    because Tune would hide an exception's text from the searcher. A failed trial drops its worker, and the next trial builds a new
    one. The trial never reports that it is done: the study decides.

    The configuration of a Tune trial has the keys `make` (the arguments of `trainables.make`), `trial`, `config`, `seed`, `epochs`,
    `reported` (epochs that the ledger holds), `fold` (the part of the pool that validates) and `folder` (of the checkpoint).
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Build the worker, and set up its first trial."""
        self._trainable: Trainable | None = None
        self._failure: str | None = None
        self._short_of_memory = False
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Set up the next trial."""
        self.cleanup()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Train one epoch, or report the epoch that is in the checkpoint but not in the ledger."""
        if self._refusal:
            return self._report(**self._refusal)
        if self._failure is None:
            try:
                return self._report(**self._epoch())
            except (Stopped, Superseded):
                return self._report(stopped=True)
            except Unwritable as error:
                return self._report(unwritable=str(error))
            except Exception as error:
                self._fail(error)
        return self._report(failure=self._failure, memory=self._short_of_memory)

    def hear(self) -> None:
        """Receive the driver's ping, which tests the connection; it is handled after the current epoch."""

    def cleanup(self) -> None:
        """Finish the trial; the worker's backbone must be unchanged."""
        if self._trainable is not None:
            self._trainable.finish()

    def _begin(self, config: dict[str, Any]) -> None:
        self._trial: int = config["trial"]
        self._failure = None
        self._refusal: dict[str, str] = {}  # why no trial can run here, and the search ends
        self._pending: dict[str, float] | None = None
        if (unseen := _unseen(config["folder"])) is not None:
            self._refusal = {"unseen": unseen}
            return
        try:
            if self._trainable is None:
                limit_gpu_memory(config.get("gpus", 0.0))
                self._trainable = make(**config["make"])
            self._done = self._trainable.start(
                config["config"],
                seed=config["seed"],
                epochs=config["epochs"],
                folder=FencedFolder(config["folder"]),
                fold=config["fold"],
            )
            if self._done > config["reported"]:
                self._pending = self._trainable.replay()
        except Changed as error:
            self._refusal = {"changed": str(error)}
        except Unwritable as error:
            self._refusal = {"unwritable": str(error)}
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._trainable = None
        self._failure, self._short_of_memory = f"{type(error).__name__}: {error}", is_out_of_memory(error)

    def _epoch(self) -> dict[str, Any]:
        if self._trainable is None:
            raise RuntimeError("the worker was not set up")
        metrics, self._pending = self._pending, None
        if metrics is None:
            metrics = self._trainable.step()
            self._done += 1
        return {"epoch": self._done, "metrics": metrics}

    def _report(self, **content: Any) -> dict[str, Any]:
        return {"report": json.dumps({"trial": self._trial, **content})}


def _unseen(folder: Path | Folder) -> str | None:
    """Return the study's folder if it does not exist on this node, where other nodes could not see its checkpoints; else None."""
    folder = folder.folder if isinstance(folder, RunFolder) else folder
    return None if not isinstance(folder, Path) or (study := folder.parents[1]).is_dir() else str(study)
