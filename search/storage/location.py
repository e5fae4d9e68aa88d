"""Where a study's ledger lies: a file in its folder, or a file there that points at a PostgreSQL server."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from search.errors import LedgerError
from search.storage import address
from search.storage.address import Address, read_pointer
from search.storage.database import Database
from search.storage.sqlite import SQLite

FILE, POINTER = "ledger.db", "ledger.json"


@dataclass(frozen=True)
class LedgerLocation:
    """Where a ledger lies, or would lie.

    Attributes:
        folder: The study's.
        address: On a server; None for a file in the folder.
    """

    folder: Path
    address: Address | None = None

    @property
    def path(self) -> Path:
        """The ledger's file, or the file that points at it; it need not exist."""
        return self.folder / (FILE if self.address is None else POINTER)

    @property
    def ledger_path(self) -> Path:
        """The ledger's file, or the file that points at it: the one that exists, else the one that would be made."""
        here = ledger_in(self.folder)
        return here if here.exists() else self.path

    def find(self) -> Path | None:
        """The ledger's file, None if there is no ledger. One that another machine has made on the server gets its pointer here.

        Raises:
            LedgerError: The folder holds another one, or the server cannot be asked.
        """
        here = ledger_in(self.folder)
        if not here.exists():
            if self.address is None:
                return None
            with closing(open_database(self.path, self.address)) as there:
                if not there.exists():
                    return None
            from search.storage.address import write_pointer

            write_pointer(self.path, self.address)
        elif self.address is not None and str(open_database(here)) != str(self.address):
            raise LedgerError(
                f"the study in {self.folder} has its ledger in {open_database(here)}, which is not {self.address}: "
                "a ledger stays where it was made; name that one, or another study or storage"
            )
        return ledger_in(self.folder)


def ledger_in(folder: Path) -> Path:
    """The file that is the ledger of a folder, or points at it; it need not exist."""
    pointer = folder / POINTER
    return pointer if pointer.exists() else folder / FILE


def locate_ledger(folder: Path, study: str, server: str | None) -> LedgerLocation:
    """Say where the ledger of a study is, or will be when the study is made.

    Args:
        folder: The study's folder.
        study: The study's name.
        server: The address of a database; None for an SQLite file in the folder.

    Raises:
        LedgerError: The study's name is too long for the server.
    """
    if server is None:
        return LedgerLocation(folder)
    try:
        return LedgerLocation(folder, address.study_address(server, study))
    except ValueError as error:
        raise LedgerError(f"study: {error}") from None


def location_below(folder: Path, name: str) -> LedgerLocation:
    """Of what belongs to the study in a folder, where that one lies."""
    here = ledger_in(folder)
    if here.name == FILE:
        return LedgerLocation(folder / name)
    from search.storage.address import read_pointer

    return LedgerLocation(folder / name, read_pointer(here).below(name))


def attach_study(where: str, storage: Path) -> Path:
    """The folder of a study that someone names by its address; made, with a pointer in it, if this storage has none.

    Raises:
        LedgerError: The address is none, or leads to no study, or the folder holds another one.
    """
    try:
        there = address.parse_address(where)
    except ValueError as error:
        raise LedgerError(str(error)) from None
    place = LedgerLocation(storage / there.study, there)
    if place.find() is None:
        raise LedgerError(f"{there} does not exist; `paretune ls {there.server}` shows the studies that do")
    return place.folder


def list_locations(storage: Path, server: str | None = None) -> list[LedgerLocation]:
    """Of the studies of a storage, or of those in a database, in the order of their names.

    Raises:
        LedgerError: The database has no such address, or cannot be asked.
    """
    if server is None:
        return [
            LedgerLocation(folder)
            for folder in sorted({path.parent for name in (FILE, POINTER) for path in storage.glob(f"*/{name}")})
        ]
    from search.storage.postgresql import list_studies

    try:
        return [LedgerLocation(storage / one.study, one) for one in list_studies(address.check_server(server))]
    except ValueError as error:
        raise LedgerError(str(error)) from None


POINTER_SUFFIX = ".json"  # of a file that holds an address; any other file is SQLite's


def open_database(path: Path, address: Address | None = None) -> Database:
    """The database of a ledger.

    Args:
        path: The SQLite file, or the file that points at a server; it need not exist yet.
        address: On a server; None for what the file says.

    Raises:
        LedgerError: The file points nowhere.
    """
    if address is None and path.suffix != POINTER_SUFFIX:
        return SQLite(path)
    from search.storage.postgresql import PostgreSQL

    return PostgreSQL(path, address or read_pointer(path))
