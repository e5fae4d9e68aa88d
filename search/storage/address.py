"""The address of a ledger on a PostgreSQL server: `postgresql://[user@]host[:port]/database/study`. It has no password."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from search.errors import LedgerError
from search.names import LAW, is_study_name
from search.secret import LIBPQ_KEYS, userinfo_of
from search.storage.whole_file import write_whole

FORM = "postgresql://[user@]host[:port]/database"
SCHEMES = ("postgresql", "postgres")
_LONGEST = 48  # letters of a study's name; with our prefix and suffix it fits into PostgreSQL's 63
_BELOW = "final"  # the one ledger that belongs to a study's


@dataclass(frozen=True)
class Address:
    """The address of one study's ledger.

    Attributes:
        server: Address for libpq: server and database, with its parameters after a question mark.
        study: Name of the study; `study/final` holds the results of finalizing it.

    Raises:
        ValueError: If the server's address is invalid (see `check_server`), or the name is no study's or too long for PostgreSQL.
    """

    server: str
    study: str

    def __post_init__(self) -> None:
        check_server(self.server)
        if not is_study_name(name := self.study.removesuffix(f"/{_BELOW}")):
            raise ValueError(f"the address does not end with a study: {LAW}")
        if len(name) > _LONGEST:
            raise ValueError(f"on PostgreSQL a study's name may have at most {_LONGEST} letters; {name} has {len(name)}")

    def __str__(self) -> str:
        where, question, parameters = self.server.partition("?")
        return f"{where}/{self.study}{question}{parameters}"

    def final(self) -> Address:
        """Return the address of the ledger that holds the results of finalizing this study."""
        return Address(self.server, f"{self.study}/{_BELOW}")


def is_address(text: object) -> bool:
    """Return whether a text is meant as an address, valid or not."""
    return isinstance(text, str) and text.partition("://")[0] in SCHEMES


def check_server(text: str) -> str:
    """Check the address of a server and a database, the `ledger` of a study file; return it.

    Raises:
        ValueError: If it is not such an address, or contains a password; the message does not repeat it.
    """
    database = _database_and_more(text)
    if len(database) != 1:
        raise ValueError(f"the address of a database must have the form {FORM}: one name after the server")
    return text


def parse_address(text: str) -> Address:
    """Parse the address of a study.

    Raises:
        ValueError: If it is not such an address, or contains a password; the message does not repeat it.
    """
    _, *names = _database_and_more(text)
    if not names:
        raise ValueError(f"the address of a study must have the form {FORM}/study; this one ends with the database")
    where, question, parameters = text.partition("?")
    study = "/".join(names)
    return Address(where.removesuffix(f"/{study}") + question + parameters, study)


def _database_and_more(text: str) -> list[str]:
    if not is_address(text):
        raise ValueError(f"the address of a ledger on a server must have the form {FORM}")
    parts, user = urlsplit(text), userinfo_of(text)
    if any(one in user for one in ":/?#") or parts.fragment:
        raise ValueError("the address contains a password; remove it, and set PGPASSWORD or use ~/.pgpass")
    if unknown := [key for key, _ in parse_qsl(parts.query, keep_blank_values=True) if key not in LIBPQ_KEYS]:
        raise ValueError(
            f"the address may contain a password, as {len(unknown)} keys after the question mark are none of PostgreSQL's other "
            "ones; remove them, and set PGPASSWORD or use ~/.pgpass"
        )
    names = parts.path.removeprefix("/").split("/")
    if not all(names):
        raise ValueError(f"the address of a database must have the form {FORM}")
    return names


def write_pointer(pointer: Path, address: Address) -> None:
    """Write the pointer file to a ledger, atomically."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    write_whole(pointer, lambda draft: draft.write_text(json.dumps({"ledger": str(address)}) + "\n"), durable=True)


def read_pointer(pointer: Path) -> Address:
    """Read the address of a ledger from a pointer file.

    Raises:
        LedgerError: If the file does not exist, or contains no address.
    """
    try:
        return parse_address(json.loads(pointer.read_text())["ledger"])
    except FileNotFoundError:
        raise LedgerError(f"{pointer} does not exist; list the existing studies: paretune ls") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LedgerError(f'{pointer} does not refer to a ledger ({error}); its only line must be {{"ledger": ADDRESS}}') from None
