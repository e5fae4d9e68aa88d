"""The address of an SQLite file for libraries that take a URL: any path, also one with `?` or `%25` in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

import sqlalchemy as sa

_PREFIX: Final = "sqlite:///"
_QUOTED: Final = "sqlite+pysqlite:///"  # the same driver; from the other prefix MLflow would make a folder of the quoted name
_SPECIAL: Final = frozenset("%?#")  # characters of a path that mean something else in a URL
_DECODES: Final = sa.make_url(f"{_PREFIX}%25").database == "%"  # SQLAlchemy 2.1 decodes the path of a URL, 2.0 does not


def sqlite_address(path: Path) -> str:
    """Return the address of a database file."""
    if _SPECIAL.isdisjoint(str(path)):
        return f"{_PREFIX}{path}"
    return f"{_QUOTED}{quote(str(path))}" if _DECODES else f"{_QUOTED}file:{quote(str(path))}?uri=true"


def sqlite_path(address: str) -> Path | None:
    """Return the file of an address; None if it is no SQLite database."""
    if not address.startswith((_PREFIX, _QUOTED)):
        return None
    url = sa.make_url(address)
    return Path(unquote(str(url.database).removeprefix("file:"))) if "uri" in url.query else Path(str(url.database))
