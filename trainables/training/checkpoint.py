"""The state of a trial in one safetensors file: tensors, and everything else as JSON in the metadata. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from trainables import folder as folders
from trainables.folder import Folder

NAME: Final = "checkpoint.safetensors"
VERSION: Final = 1


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    Attributes:
        tensors: Trainable parameters, optimiser state and random state by name, on the CPU.
        facts: Configuration, seed, epoch and metrics as JSON values.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors below `prefix`, keyed by the rest of their names."""
        return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in self.tensors.items() if name.startswith(f"{prefix}/")}


def write(folder: Path | Folder, checkpoint: Checkpoint) -> None:
    """Write `folder`/checkpoint.safetensors atomically."""
    metadata = {"version": str(VERSION), "facts": json.dumps(dict(checkpoint.facts))}
    folders.write(folder, NAME, save(dict(checkpoint.tensors), metadata=metadata))


def read(folder: Path | Folder) -> Checkpoint | None:
    """Read the checkpoint in `folder`; return None if it has none.

    Raises:
        ValueError: If the file is not a checkpoint of this version.
    """
    if (blob := folders.read(folder, NAME)) is None:
        return None
    path = f"{folder}/{NAME}"
    try:
        tensors = load(blob)
        metadata = _header(blob).get("__metadata__", {})
        if (version := metadata.get("version")) != str(VERSION):
            raise ValueError(f"{path} must be a checkpoint of version {VERSION}; got {version!r}; delete it to restart the trial")
        return Checkpoint(tensors, json.loads(metadata["facts"]))
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"{path} is not a complete checkpoint ({error}); delete it to restart the trial") from error


def _header(blob: bytes) -> dict[str, Any]:
    """Parse the JSON header of a safetensors file, which follows its length in eight bytes; `load` has validated it."""
    end = 8 + int.from_bytes(blob[:8], "little")
    header: dict[str, Any] = json.loads(blob[8:end])
    return header
