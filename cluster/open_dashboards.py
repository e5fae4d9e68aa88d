"""A look, without a token, at whether a Ray cluster accepts jobs from anyone."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from urllib.parse import urlsplit

_ANSWERS_SECONDS = 10


def open_to_anyone(address: str) -> str | None:
    """Return the flaw in a cluster's protection; None if it has a token, is on this machine alone, or cannot be reached.

    A loopback address may be a tunnel, so the addresses of the nodes are asked for.
    """
    try:
        _get(address, "/api/jobs/")
        machines = [node["ip"] for node in json.loads(_get(address, "/nodes?view=summary"))["data"]["summary"]]
    except urllib.error.HTTPError as error:
        if error.code in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            return None
        return f"{address} does not say whether it asks for a token (HTTP status {error.code})"
    except TimeoutError:
        return f"{address} does not say within {_ANSWERS_SECONDS} s whether it asks for a token"
    except (OSError, http.client.HTTPException) as error:
        slow = isinstance(getattr(error, "reason", None), TimeoutError)
        return f"{address} does not say within {_ANSWERS_SECONDS} s whether it asks for a token" if slow else None
    except (ValueError, KeyError, TypeError):
        machines = ["of an unknown address"]
    if machines and all(_is_loopback(f"//{machine}") for machine in (*machines, urlsplit(address).hostname)):
        return None
    return f"{address} accepts jobs from anyone who can reach it"


def _get(address: str, path: str) -> bytes:
    """Ask as a client without a token."""
    with urllib.request.urlopen(f"{address.rstrip('/')}{path}", timeout=_ANSWERS_SECONDS) as answer:  # noqa: S310 - http only
        content: bytes = answer.read()
    return content


def _is_loopback(address: str) -> bool:
    return urlsplit(address).hostname in ("127.0.0.1", "::1", "localhost")
