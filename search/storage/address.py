"""The address of a ledger on a PostgreSQL server: `postgresql://[user@]host[:port]/database/study`. It never holds a password."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from search.errors import LedgerError
from search.storage.whole_file import write_whole

FORM = "postgresql://[user@]host[:port]/database"
SCHEMES = ("postgresql", "postgres")
_SECRETS = ("password", "sslpassword")
_LONGEST = 48  # letters of a study's name, so that PostgreSQL's 63 hold it with what we put around it


@dataclass(frozen=True)
class Address:
    """One study's ledger.

    Attributes:
        server: What libpq connects to: server and database, with its own parameters behind a question mark.
        study: The study's name; `study/final` is what finalizing it keeps.
    """

    server: str
    study: str

    def __str__(self) -> str:
        where, question, parameters = self.server.partition("?")
        return f"{where}/{self.study}{question}{parameters}"

    def below(self, name: str) -> Address:
        """Of a ledger that belongs to this one."""
        return Address(self.server, f"{self.study}/{name}")


def is_address(text: object) -> bool:
    """Whether someone means an address, right or wrong."""
    return isinstance(text, str) and text.partition("://")[0] in SCHEMES


def check_server(text: str) -> str:
    """The address of a server and a database, as `ledger` of a study file.

    Raises:
        ValueError: It is none, or it holds a password; the message does not repeat it.
    """
    database = _database_and_more(text)
    if len(database) != 1:
        raise ValueError(f"the address of a database is written {FORM}: one name after the server")
    return text


def parse_address(text: str) -> Address:
    """The address of a study.

    Raises:
        ValueError: It is none, or it holds a password; the message does not repeat it.
    """
    _, *names = _database_and_more(text)
    if not names:
        raise ValueError(f"the address of a study is written {FORM}/study; this one ends with the database")
    where, question, parameters = text.partition("?")
    study = "/".join(names)
    return study_address(where.removesuffix(f"/{study}") + question + parameters, study)


def study_address(server: str, study: str) -> Address:
    """A study's address on a server that has been checked.

    Raises:
        ValueError: PostgreSQL has no names so long.
    """
    if len(study.partition("/")[0]) > _LONGEST:
        raise ValueError(f"on PostgreSQL a study's name has at most {_LONGEST} letters; {study} has {len(study)}")
    return Address(server, study)


def _database_and_more(text: str) -> list[str]:
    if not is_address(text):
        raise ValueError(f"a ledger on a server has an address of the form {FORM}")
    parts = urlsplit(text)
    if parts.password is not None or any(key in _SECRETS for key, _ in parse_qsl(parts.query)):
        raise ValueError("the address holds a password; take it out: it belongs into PGPASSWORD, or into ~/.pgpass")
    names = parts.path.removeprefix("/").split("/")
    if not all(names):
        raise ValueError(f"the address of a database is written {FORM}")
    return names


def write_pointer(pointer: Path, address: Address) -> None:
    """Write the file that leads to a ledger, whole or not at all."""
    pointer.parent.mkdir(parents=True, exist_ok=True)
    write_whole(pointer, lambda draft: draft.write_text(json.dumps({"ledger": str(address)}) + "\n"))


def read_pointer(pointer: Path) -> Address:
    """The address in a file that leads to a ledger.

    Raises:
        LedgerError: There is no such file, or it holds none.
    """
    try:
        return parse_address(json.loads(pointer.read_text())["ledger"])
    except FileNotFoundError:
        raise LedgerError(f"{pointer} does not exist; `paretune ls` shows the studies that do") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LedgerError(f'{pointer} does not lead to a ledger ({error}); it holds one line: {{"ledger": ADDRESS}}') from None
