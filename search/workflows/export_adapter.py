"""Taking trials' adapters out of a study: which trials can be. What is written is in `trainables.export.adapter`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from search.config.loading import check
from search.errors import RequestError
from search.results.saved_study import SavedStudy
from search.storage import checkpoints
from search.trial import State

if TYPE_CHECKING:
    from trainables.export.adapter import Card

LARGEST = 10_000_000  # parameters of an adapter that is kept beside the study, 40 MB; full fine-tuning is not


def export_adapter(study: SavedStudy, number: int, to: Path, *, merged: bool = False) -> Card:
    """Writes the adapter of a trial, or the model merged with it, and its card to the folder `to`; returns the card.

    A trial that is not COMPLETE is exported as its newest checkpoint has it; the card's `origin` and `epochs` tell.

    Raises:
        RequestError: There is no such trial, it has FAILED or has no checkpoint, `to` is taken, or the method cannot be merged.
            Nothing is written.
    """
    trial, worker = study.trial(number), check(study.row.file).worker()
    if trial.state is State.FAILED:
        raise RequestError(f"trial {number} of study {study.name} has FAILED ({trial.reason}); export one that is COMPLETE")
    if worker["data"]["kind"] == "synthetic":
        raise RequestError(f"study {study.name} searched a synthetic surface: nothing was trained, so there is nothing to export")
    folder = checkpoints.trial_folder(study.checkpoints, number)
    if not checkpoints.has_checkpoint(study.checkpoints, number):
        raise RequestError(
            f"trial {number} of study {study.name} is {trial.state} after {trial.epochs} epochs and has no checkpoint in {folder}; "
            "export one that has"
        )
    from trainables.export.adapter import export_adapter as write

    origin = {"study": study.name, "trial": number, "state": str(trial.state)}
    known = {"config": trial.config, "seed": trial.seed, "backbone": worker["backbone"], "data_set": worker["data"]}
    try:
        return write(folder, to, **known, origin=origin, merged=merged)
    except ValueError as error:
        raise RequestError(str(error)) from error


def keep_adapters(study: SavedStudy) -> list[Path]:
    """Write the adapters of the front's members, with their cards, to `adapters/NNNN` in the study's folder; the record shows them.

    A study whose checkpoints lie elsewhere has them there, too.

    Left out are members whose adapter is there already, who have no checkpoint any more, or train more than `LARGEST` parameters.

    Returns:
        The folders that were written.
    """
    written = []
    for member in study.members:
        place = study.folder / "adapters" / f"{member.number:04d}"
        if place.exists() or member.adapter_params + member.head_params > LARGEST:
            continue
        with suppress(RequestError):
            export_adapter(study, member.number, place)
            written.append(place)
    if (shared := study.checkpoints) != study.folder:
        for place in written:
            for file in place.iterdir():
                checkpoints.write_file(shared / "adapters" / place.name, file.name, file.read_bytes())
    return written
