"""The end of a search, told to its user: a message to a web address, and a command.

Both come from the command line or the environment of the user who starts the search, never from a study file: a study file may be a
stranger's, and a command in it would run with the user's rights.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from search.errors import RequestError
from search.results.saved_study import SavedStudy
from search.secret import SecretAddress, hide_secrets
from search.storage.events import EventKind
from search.storage.sql_ledger import open_ledger

PATIENCE_SECONDS = 10.0  # for an address that does not answer
SHORT_PATIENCE_SECONDS = 3.0  # after a signal, when the process has a few seconds left


@dataclass(frozen=True)
class Notice:
    """The end of a search, in words.

    Attributes:
        study: Name of the study.
        state: State of the study, or FAILED if the search has ended with an error.
        reason: Reason of the end, in words.
        answer: Answer of the study in one sentence, empty if the search has ended with an error.
        folder: Folder of the study.
    """

    study: str
    state: str
    reason: str
    answer: str
    folder: str

    def as_json(self) -> dict[str, Any]:
        """Return the body of the message; `text` is what chat services show."""
        said = self.answer or self.reason
        return asdict(self) | {"text": f"{self.study} is {self.state}: {said}"}

    def as_environment(self) -> dict[str, str]:
        """Return the environment variables of the command."""
        return {f"PARETUNE_{key.upper()}": value for key, value in asdict(self).items()}


def notice_of(study: SavedStudy) -> Notice:
    """Describe the end of a search that has ended by itself."""
    with open_ledger(study.folder) as ledger:
        left = [str(event.detail["reason"]) for event in ledger.events(kinds=[EventKind.LEFT])]
    reason = study.ended or (left[-1] if left else "finished")
    return Notice(study.name, study.state.value, hide_secrets(reason), study.answer, str(study.folder))


def notice_of_error(study: str, folder: str, error: BaseException) -> Notice:
    """Describe the end of a search by an error or a signal."""
    if isinstance(error, KeyboardInterrupt):
        return Notice(study, "INTERRUPTED", "interrupted", "", folder)
    first = (str(error).strip().splitlines() or [""])[0]
    return Notice(study, "FAILED", hide_secrets(f"{type(error).__name__}: {first}"), "", folder)


def check_url(url: str | None, *, public: bool = False) -> None:
    """Refuse an address to which no message can be sent.

    Args:
        url: Address; None for none.
        public: True if Ray's dashboard will show it.

    Raises:
        RequestError: If it is none, or holds a secret and is public; the message does not repeat it.
    """
    if url is None:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise RequestError(
            "--notify: give an address like https://hooks.example.org/search; yours is not repeated, because it may hold a secret"
        )
    if public and SecretAddress(url).is_secret:
        raise RequestError(
            "--notify: this address holds a password or a token, which Ray's dashboard would show; set PARETUNE_NOTIFY in the "
            "environment of the cluster's machines instead"
        )


def send(url: str, notice: Notice, *, patience: float = PATIENCE_SECONDS) -> str | None:
    """Send a notice as JSON by POST.

    Args:
        url: Address, of which only the host is ever said.
        notice: The notice.
        patience: Seconds to wait for the answer.

    Returns:
        The problem, None if the message was accepted.
    """
    body = json.dumps(notice.as_json()).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - see `check_url`
    try:
        with urllib.request.urlopen(request, timeout=patience):  # noqa: S310 - see `check_url`
            return None
    except urllib.error.HTTPError as error:
        problem = f"HTTP status {error.code}"
    except (OSError, HTTPException, ValueError) as error:
        problem = str(getattr(error, "reason", "") or type(error).__name__)
    return f"{urlsplit(url).hostname} has not taken the message about {notice.study} ({problem})"


def run_command(command: str, notice: Notice, environment: Mapping[str, str] = os.environ) -> str | None:
    """Run a command of the user in a shell, with the notice in its environment.

    Returns:
        The problem, None if the command has succeeded.
    """
    done = subprocess.run(command, shell=True, env={**environment, **notice.as_environment()}, check=False)  # noqa: S602 - the user's own
    return None if done.returncode == 0 else f"the command has ended with exit status {done.returncode}"
