"""Finding a study: where its ledger is, what it holds, and whether the study file may open it. Done once per command."""

from __future__ import annotations

from dataclasses import dataclass

from search.config.study_file import StudyFile
from search.results.saved_study import SavedStudy, load
from search.storage.location import LedgerLocation, locate_ledger
from search.study.checks import refuse_changes, refuse_other_place


@dataclass(frozen=True)
class Opening:
    """A study file with what its folder or server holds of the study.

    Attributes:
        file: The study file.
        location: Where the ledger is, or will be.
        saved: The study as it was when it was found; None if it has to be made.
    """

    file: StudyFile
    location: LedgerLocation
    saved: SavedStudy | None

    @property
    def is_new(self) -> bool:
        """True if the study has to be made."""
        return self.saved is None


def find_study(file: StudyFile) -> Opening:
    """Locate the study of a study file, read it, and refuse a file that it was not made from.

    Raises:
        StudyFileError: The study exists and was made from another file, or has its checkpoints in another place.
        LedgerError: The folder holds another study's ledger, or the ledger cannot be read.
    """
    location = locate_ledger(file.folder, file.study, file.ledger)
    if location.find() is None:
        return Opening(file, location, None)
    saved = load(file.folder)
    refuse_changes(saved.row, file)
    refuse_other_place(saved.row, file)
    return Opening(file, location, saved)
