"""The export of trials' adapters from a study: the choice of trials. The files are written by `trainables.export.adapter`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from search.config.loading import check_stored
from search.errors import RequestError
from search.results.saved_study import SavedStudy
from search.storage import checkpoints
from search.trial import State
from trainables.export.card import FORMATS

if TYPE_CHECKING:
    from trainables.export.adapter import Card, Exporter, Form

LARGEST = 10_000_000  # parameters of an adapter that is kept with the study, 40 MB; this excludes full fine-tuning


def exporter(study: SavedStudy) -> Exporter:
    """Return the exporter of a study's trials, which loads backbone and data with the first one."""
    from trainables.export.adapter import Exporter

    worker = check_stored(study.row.file).worker(study.row.facts)
    return Exporter(worker["backbone"], worker["data"], worker.get("methods", ()))


@dataclass(frozen=True)
class Format:
    """The format of an export and its options.

    Attributes:
        name: One of `trainables.export.card.FORMATS`: paretune, peft, merged or onnx.
        rank: Rank of a conversion to LoRA, for peft; None to choose it.
        loses: Points of validation accuracy that the conversion may lose; None for 0.2, or for none if the method is LoRA.
        normalize_inside: True to normalise pixels in the graph, for onnx.
    """

    name: str = "paretune"
    rank: int | None = None
    loses: float | None = None
    normalize_inside: bool = False

    def form(self) -> Form:
        """Return the exporter's form.

        Raises:
            RequestError: If an option is of another format, or has a value that cannot be.
        """
        from trainables.export.adapter import Form, Rank

        if self.name not in FORMATS:
            raise RequestError(f"the format of an export must be one of {', '.join(FORMATS)}; got {self.name!r}")
        try:
            return Form(FORMATS[self.name], Rank(self.rank, self.loses), self.normalize_inside)
        except ValueError as error:
            raise RequestError(str(error)) from error


def export_adapter(
    study: SavedStudy,
    number: int,
    to: Path,
    *,
    form: Format = Format(),
    using: Exporter | None = None,
) -> Card:
    """Write a trial's adapter, or the model with it, and its card to the folder `to`; return the card.

    If the trial is not COMPLETE, its newest checkpoint is exported; the card's `origin` and `epochs` say so.

    Args:
        study: The study.
        number: Number of the trial.
        to: Target folder; it must not exist, or be empty.
        form: Format of the export.
        using: Exporter of the study, if several trials are exported.

    Raises:
        RequestError: If the trial does not exist, has FAILED or has no checkpoint, `to` is not empty, or the method does not have
            this format. Nothing is written.
    """
    trial = study.trial(number)
    if trial.state is State.FAILED:
        raise RequestError(f"trial {number} of study {study.name} has FAILED ({trial.reason}); export one that is COMPLETE")
    if study.row.file["data"]["kind"] == "synthetic":
        raise RequestError(f"study {study.name} searched a synthetic surface: nothing was trained, so there is nothing to export")
    folder = checkpoints.trial_folder(study.checkpoints, number)
    if not checkpoints.has_checkpoint(study.checkpoints, number):
        raise RequestError(
            f"trial {number} of study {study.name} is {trial.state} after {trial.epochs} epochs and has no checkpoint in {folder}; "
            "export a trial with a checkpoint"
        )
    origin = {"study": study.name, "trial": number, "state": str(trial.state)}
    try:
        first = trial.first_run(int(study.row.budget["epochs"]))  # whose checkpoint is kept
        at_least = first.epochs if trial.is_complete or trial.state.finished else 0
        by = exporter(study) if using is None else using
        return by.write(folder, to, config=trial.config, seed=trial.seed, origin=origin, at_least=at_least, form=form.form())
    except ValueError as error:
        raise RequestError(str(error)) from error


def refuse_changed(study: SavedStudy) -> None:
    """Refuse to go on with a data set or weights other than those with which the study began.

    Raises:
        RequestError: If one of them has changed; the message names what.
    """
    import trainables

    worker = check_stored(study.row.file).worker(study.row.facts)
    try:
        trainables.refuse_changed(worker["backbone"], worker["data"], worker.get("methods", ()))
    except ValueError as error:
        raise RequestError(str(error)) from error


def keep_adapters(study: SavedStudy) -> list[Path]:
    """Write the adapters of the front's members, with cards, to `adapters/NNNN` in the study's folder, for the record in MLflow.

    If the study's checkpoints are stored elsewhere, the adapters are copied there.

    Members are skipped if their adapter exists already, if they have no checkpoint any more, or if they train more than `LARGEST`
    parameters.

    Returns:
        The folders that were written.
    """
    written, using = [], None
    for member in study.members:
        target = study.folder / "adapters" / f"{member.number:04d}"
        if target.exists() or member.adapter_params + member.head_params > LARGEST:
            continue
        with suppress(RequestError):
            using = using or exporter(study)
            export_adapter(study, member.number, target, using=using)
            written.append(target)
    if (shared := study.checkpoints) != study.folder:
        for target in written:
            for file in target.iterdir():
                checkpoints.write_file(shared / "adapters" / target.name, file.name, file.read_bytes())
    return written
