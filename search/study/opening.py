"""The lookup of a study, done once per command: the location of its ledger, its content, and a check of the study file."""

from __future__ import annotations

from dataclasses import dataclass

from search.config.data_sections import Images
from search.config.loading import check_stored
from search.config.study_file import StudyFile
from search.results.overview import Overview, overview
from search.storage.location import LedgerLocation, locate_ledger
from search.study.checks import refuse_changes, refuse_other_place


@dataclass(frozen=True)
class Opening:
    """A study file together with the study that its folder or server contains.

    Attributes:
        file: Study file.
        location: Location of the ledger, existing or not.
        saved: Overview of the study at the time of the lookup; None if it has to be created.
    """

    file: StudyFile
    location: LedgerLocation
    saved: Overview | None

    @property
    def data_moved(self) -> bool:
        """True if the study file names another folder for the data than the study."""
        data = self.file.data
        return self.saved is not None and isinstance(data, Images) and str(data.path) != self.saved.row.file["data"]["path"]

    @property
    def is_new(self) -> bool:
        """True if the study has to be created."""
        return self.saved is None


def find_study(file: StudyFile) -> Opening:
    """Locate the study of a study file, read it, and refuse a file from which it was not created.

    Raises:
        StudyFileError: If the study was created from another file, or has its checkpoints in another location.
        LedgerError: If the folder has another study's ledger, or the ledger cannot be read.
    """
    location = locate_ledger(file.folder, file.study, file.ledger)
    if location.find() is None:
        return Opening(file, location, None)
    saved = overview(file.folder)
    file = file.with_protocol_of(check_stored(saved.row.file))
    refuse_changes(saved.row, file)
    refuse_other_place(saved.row, file)
    as_it_began = {"space": dict(saved.row.file["space"])}  # a 0 in it may have been a whole number then
    return Opening(file.model_copy(update=as_it_began), location, saved)
