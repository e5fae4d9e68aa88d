"""Addresses that may hold a secret: a type whose text never does, and the removal of known secrets from a text of others."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote

HIDDEN: Final = "***"
_FILES: Final = ("sqlite", "file")  # addresses of files, where an @ or ? is part of a path
_NAMES_OF_SECRETS: Final = re.compile(r"(PASSWORD|PASSPHRASE|TOKEN|SECRET(_KEY)?|ACCESS_KEY|API_KEY)$", re.IGNORECASE)
_SHORTEST: Final = 6  # letters of a secret that is looked for in a text: a shorter one is part of ordinary words
_LONGEST_NAME: Final = 20  # letters of a user name next to a password; a longer one may be a token
_ROLE: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")  # of PostgreSQL, whose addresses name one; elsewhere a lone user may be a token
# Keys of a query whose values are no secrets: of PostgreSQL's client library, and of object stores. All others may be.
LIBPQ_KEYS: Final = frozenset(
    {
        *("host", "hostaddr", "port", "user", "dbname", "connect_timeout", "client_encoding", "options", "application_name"),
        *("fallback_application_name", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "target_session_attrs", "load_balance_hosts", "sslmode", "ssl", "sslnegotiation"),
        *("sslcompression", "sslcert", "sslkey", "sslcertmode", "sslrootcert", "sslcrl", "sslcrldir", "sslsni", "requirepeer"),
        *("require_auth", "ssl_min_protocol_version", "ssl_max_protocol_version", "channel_binding", "krbsrvname", "gsslib"),
        *("gssencmode", "gssdelegation", "service", "passfile", "requiressl", "replication"),
        *("min_protocol_version", "max_protocol_version"),
    }
)
STORE_KEYS: Final = ("region", "scheme", "endpoint_override")


class SecretAddress(str):
    """An address without the secrets that it was made of: user, password, query. Only `reveal` returns them.

    The text itself is safe, in any form (str, repr, format, JSON, a pickle, a log). It still names scheme, host and path.

    Args:
        given: Address as the user wrote it.
    """

    _given: str

    def __new__(cls, given: str) -> SecretAddress:
        """Split the address; one that has been split stays as it is."""
        if isinstance(given, SecretAddress):
            return given
        made = super().__new__(cls, _without_secret(given))
        made._given = given
        return made

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)

    def reveal(self) -> str:
        """Return the whole address, for the library that connects, and for nothing that is stored or shown."""
        return self._given

    @property
    def is_secret(self) -> bool:
        """True if a part of the address is hidden."""
        return self._given != str(self)

    def hide(self, text: str) -> str:
        """Return a text, such as a library's message, without this address's secrets."""
        return _hidden(text.replace(self._given, str(self)), self._secrets())

    def _secrets(self) -> Iterator[str]:
        """Yield the parts that must not be shown, as they are written and decoded."""
        scheme, userinfo, _, query = _parts(self._given)
        found = [query, *(value for _, value in parse_qsl(query))] if _may_be_secret(query) else []
        if not _is_role(scheme, userinfo):
            user, _, password = userinfo.partition(":")
            found += [userinfo, password]
            if not password or len(user) > _LONGEST_NAME:
                found.append(user)
        for one in filter(None, found):
            yield from {one, unquote(one), quote(unquote(one), safe="")}


def hide_secrets(text: str) -> str:
    """Return a text without the secrets that this process was given: in its environment, or on its command line.

    It is the last net, under texts that libraries wrote: tracebacks and logs.
    """
    given = [value for name, value in os.environ.items() if _NAMES_OF_SECRETS.search(name)]
    for address in (SecretAddress(word) for word in (*os.environ.values(), *sys.argv[1:]) if "://" in word):
        if address.is_secret:
            text = address.hide(text)
    return _hidden(text, given)


class HidingStream:
    """A text stream that writes to another one without secrets, for the output of a library.

    Args:
        stream: Stream to write to.
        address: Address whose secrets are hidden, with those that the process was given.
    """

    def __init__(self, stream: Any, address: SecretAddress | None = None) -> None:
        self._stream, self._address = stream, address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text without the secrets in it."""
        self._stream.write(hide_secrets(text if self._address is None else self._address.hide(text)))
        return len(text)


class HidingFormatter(logging.Formatter):
    """A formatter of log records, tracebacks among them, that leaves the secrets of this process out."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
        return hide_secrets(super().format(record))


def _hidden(text: str, secrets: Iterable[str]) -> str:
    for secret in sorted({one for one in secrets if len(one) >= _SHORTEST}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _without_secret(given: str) -> str:
    scheme, userinfo, place, query = _parts(given)
    if not scheme or scheme.partition("+")[0] in _FILES:
        return given
    role = f"{userinfo}@" if userinfo and _is_role(scheme, userinfo) else ""
    return f"{scheme}://{role}{place}" + (f"?{query}" if query and not _may_be_secret(query) else "")


def _parts(given: str) -> tuple[str, str, str, str]:
    """Split an address into scheme, user and password, place, and query; the scheme is empty if the text is no address.

    User and password are all that stands before the last @: a password may hold any character, also one that ends a host.
    """
    scheme, separator, rest = given.partition("://")
    if not separator:
        return "", "", given, ""
    userinfo, _, after = rest.rpartition("@")
    place, *query = re.split(r"[?#]", after, maxsplit=1)
    return scheme, userinfo, place, "".join(query)


def _is_role(scheme: str, userinfo: str) -> bool:
    return scheme.startswith("postgres") and _ROLE.fullmatch(userinfo) is not None


def _may_be_secret(query: str) -> bool:
    keys = [pair.partition("=")[0] for pair in re.split(r"[&;#]", query) if pair]
    return any(key not in LIBPQ_KEYS and key not in STORE_KEYS for key in keys)


def userinfo_of(address: str) -> str:
    """Return user and password of an address, as they are written: all that stands before its last @."""
    return _parts(address)[1]
