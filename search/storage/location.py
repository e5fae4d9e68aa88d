"""The location of a study's ledger: a file in its folder, or a pointer file there to a PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from search.errors import LedgerError
from search.names import StudyName
from search.storage import address
from search.storage.address import Address, read_pointer, write_pointer
from search.storage.database import Database
from search.storage.sqlite import SQLite

FILE, POINTER = "ledger.db", "ledger.json"


@dataclass(frozen=True)
class LedgerLocation:
    """The location of a ledger that exists or will be created.

    Attributes:
        folder: Folder of the study.
        address: Address on a server; None for a file in the folder.
    """

    folder: Path
    address: Address | None = None

    @property
    def path(self) -> Path:
        """The path of the ledger file or the pointer file; it need not exist."""
        return self.folder / (FILE if self.address is None else POINTER)

    @property
    def ledger_path(self) -> Path:
        """The path of the ledger file or the pointer file: the existing one, else the one that would be created."""
        here = ledger_in(self.folder)
        return here if here.exists() else self.path

    def find(self) -> Path | None:
        """Return the path of the ledger, None if it does not exist; write a missing pointer to a ledger on the server.

        Raises:
            LedgerError: If the folder has another ledger, or the server cannot be queried.
        """
        here = ledger_in(self.folder)
        if not here.exists():
            if self.address is None:
                return None
            with closing(open_database(self.path, self.address)) as there:
                if not there.exists():
                    return None
            write_pointer(self.path, self.address)
        elif self.address is not None and str(open_database(here)) != str(self.address):
            raise LedgerError(
                f"the study in {self.folder} has its ledger in {open_database(here)}, which is not {self.address}: "
                "a ledger stays where it was created; name that address, or another study or storage"
            )
        return ledger_in(self.folder)


def ledger_in(folder: Path) -> Path:
    """Return the path of a folder's ledger file or pointer file; it need not exist."""
    pointer = folder / POINTER
    return pointer if pointer.exists() else folder / FILE


def locate_ledger(folder: Path, study: str, server: str | None) -> LedgerLocation:
    """Return the location of a study's ledger, existing or not.

    Args:
        folder: Folder of the study.
        study: Name of the study.
        server: Address of a database; None for an SQLite file in the folder.

    Raises:
        LedgerError: If the study's name is too long for the server.
    """
    if server is None:
        return LedgerLocation(folder)
    try:
        return LedgerLocation(folder, Address(server, study))
    except ValueError as error:
        raise LedgerError(f"study: {error}") from None


def final_location(folder: Path) -> LedgerLocation:
    """Return the location of the ledger with the results of finalizing the study in a folder, on the same database."""
    here = ledger_in(folder)
    return LedgerLocation(folder / "final", None if here.name == FILE else read_pointer(here).final())


def attach_study(where: str, storage: Path) -> Path:
    """Return the folder of a study given by its address; a missing folder is created, with a pointer file.

    Raises:
        LedgerError: If the address is invalid or names no study, or the folder has another one.
    """
    try:
        there = address.parse_address(where)
    except ValueError as error:
        raise LedgerError(str(error)) from None
    attached = LedgerLocation(storage / there.study, there)
    if attached.find() is None:
        raise LedgerError(f"{there} does not exist; list the existing studies: paretune ls {there.server}")
    return attached.folder


@dataclass(frozen=True)
class Listing:
    """The content of a storage folder or a database.

    Attributes:
        studies: Locations of the studies, in the order of their names.
        foreign: Other folders with a ledger, or schemas of ours, whose names are no study's.
    """

    studies: list[LedgerLocation]
    foreign: list[str]


def list_locations(storage: Path, server: str | None = None) -> Listing:
    """List the studies in a storage folder or a database, and what has a name that no study has.

    Raises:
        LedgerError: If the address is invalid, or the database cannot be queried.
    """
    if server is None:
        names = {path.parent.name for name in (FILE, POINTER) for path in storage.glob(f"*/{name}")}
        return _listed(names, lambda name: LedgerLocation(storage / StudyName(name)))
    from search.storage.postgresql import list_names

    try:
        names = set(list_names(address.check_server(server)))
    except ValueError as error:
        raise LedgerError(str(error)) from None
    return _listed(names, lambda name: LedgerLocation(storage / StudyName(name), Address(server, name)))


def _listed(names: Iterable[str], locate: Callable[[str], LedgerLocation]) -> Listing:
    studies, foreign = [], []
    for name in sorted(names):
        try:
            studies.append(locate(name))
        except ValueError:
            foreign.append(name)
    return Listing(studies, foreign)


POINTER_SUFFIX = ".json"  # of a pointer file; every other file is SQLite's


def open_database(path: Path, address: Address | None = None) -> Database:
    """Open the database of a ledger.

    Args:
        path: SQLite file, or pointer file to a server; it need not exist yet.
        address: Address on a server; None for the one in the pointer file.

    Raises:
        LedgerError: If the pointer file is invalid.
    """
    if address is None and path.suffix != POINTER_SUFFIX:
        return SQLite(path)
    from search.storage.postgresql import PostgreSQL

    return PostgreSQL(path, address or read_pointer(path))
