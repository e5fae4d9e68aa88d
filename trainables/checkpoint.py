"""A trial's state in one safetensors file: tensors as tensors, all else as JSON in its metadata. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

NAME: Final = "checkpoint.safetensors"
VERSION: Final = 1


@dataclass(frozen=True)
class Checkpoint:
    """What is saved.

    Attributes:
        tensors: Trainables, optimiser and random state, by name; on the CPU.
        facts: Configuration, seed, epoch, metrics: JSON values.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix`, by the rest of their names."""
        return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}/")}


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes `folder`/checkpoint.safetensors whole or not at all: under another name first, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    blob = save(dict(checkpoint.tensors), metadata={"version": str(VERSION), "facts": json.dumps(dict(checkpoint.facts))})
    unfinished = folder / f".{NAME}.{os.getpid()}"
    with open(unfinished, "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, folder / NAME)


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in `folder`, None if there is none.

    Raises:
        ValueError: The file is not a checkpoint of this version.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            version = metadata.get("version")
            if version != str(VERSION):
                raise ValueError(f"{path} must be a checkpoint of version {VERSION}; got {version!r}; delete it to start anew")
            return Checkpoint({name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["facts"]))  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is not a whole checkpoint ({error}); delete it to start the trial anew") from error
