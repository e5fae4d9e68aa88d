"""The address of a Ray cluster, checked before Ray waits for it."""

from __future__ import annotations

import os
import re
import socket

_ANSWERS_WITHIN_SECONDS = 5.0
_LAST_PORT = 65_535
_SETTINGS = 4  # type of a frame of HTTP/2
REMEDY = "start the cluster, or unset RAY_ADDRESS to search on this machine"
_PLAIN = re.compile(r"([a-z]+://)?(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)?(:[0-9]*)?(/[A-Za-z0-9._~/-]*)?")
NO_SECRET = "may hold a secret, which is not repeated here; Ray takes its token from a file (docs/cluster.md): name host and port"  # noqa: S105


class Unreachable(ConnectionError):
    """The error that no cluster can be at an address, or that nothing answers there."""


def may_hold_secret(address: str) -> bool:
    """Return whether an address has more than a scheme, a host, a port and a path: Ray itself needs no more."""
    return _PLAIN.fullmatch(address) is None


def refuse_unreachable(address: str) -> None:
    """Refuse an address that is none, and one where nothing or something else listens, for which Ray would wait two minutes.

    Raises:
        Unreachable: If it is such an address; the message has the remedy.
    """
    if address in ("auto", "local"):
        return
    if address.startswith(("http://", "https://")):
        raise Unreachable(
            f"RAY_ADDRESS={address} is the address of a dashboard, which `paretune submit` takes (PARETUNE_ADDRESS); set "
            "RAY_ADDRESS to HOST:PORT of the cluster's head, or unset it to search on this machine"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise Unreachable(f"RAY_ADDRESS={address} must be HOST:PORT of a cluster's head, or auto; {REMEDY}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN_SECONDS) as connection:
            answers = os.environ.get("RAY_USE_TLS", "0") != "0" or _speaks_http2(connection)
    except OSError as error:
        raise Unreachable(f"RAY_ADDRESS={address} cannot be reached ({error.strerror or error}); {REMEDY}") from error
    if not answers:
        raise Unreachable(f"RAY_ADDRESS={address}: what listens there is no Ray; {REMEDY}")


def _speaks_http2(connection: socket.socket) -> bool:
    """Return whether the other side answers the preface of HTTP/2, which gRPC and so Ray speaks, with settings (RFC 9113, 3.4)."""
    try:
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0)))
        header = connection.recv(9, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(header) == 9 and header[3] == _SETTINGS
