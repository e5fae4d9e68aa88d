"""Studies as jobs of a Ray cluster that is reached by HTTP: `http://head:8265`.

A study is one job after the other: attempt 1, and one more each time that it is resumed. Everything else that is asked of it (its
front, its events, to prune a trial) is a short job of its own, which runs beside the ledger with the same code.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
_FIRST_WORD = "---- paretune ----"  # what a short job prints before its answer; Ray's own words stand before it
_POLL_SECONDS = 0.25
COMMAND = ("python", "-m", "search.cli")  # `paretune` on a node, where nothing is installed: the packages travel with the job


class ClusterError(Exception):
    """The cluster cannot do what is asked; the message names the remedy."""


@dataclass(frozen=True)
class Cargo:
    """What a job is given.

    Attributes:
        working_dir: A folder as `cluster.upload.stage` fills it, or where Ray keeps what an earlier job was sent.
        environment: Variables of the job and its workers. Ray's dashboard shows them.
        pip: What Ray installs first, None where the machines' image has it.
    """

    working_dir: str
    environment: Mapping[str, str]
    pip: Any = None

    def runtime_env(self, **more: str) -> dict[str, Any]:
        """As Ray wants it, with more variables."""
        env: dict[str, Any] = {"working_dir": self.working_dir, "env_vars": {**self.environment, **more}}
        return env if self.pip is None else env | {"pip": self.pip}


@dataclass(frozen=True)
class Attempt:
    """One job of a study.

    Attributes:
        id: Ray's submission id.
        study: The study's name.
        number: Counts from 1.
        storage: Where the study lies, on the cluster.
        state: Ray's: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED.
        message: Ray's word about the state.
        started: Unix time, None while it waits.
        cargo: What it was given.
    """

    id: str
    study: str
    number: int
    storage: str
    state: str
    message: str
    started: float | None
    cargo: Cargo

    @property
    def at_work(self) -> bool:
        """Whether it has not ended yet."""
        return self.state not in _ENDED


class Jobs:
    """The studies of one cluster.

    Args:
        address: Of its dashboard, `http://host:8265`.
        unprotected: Go on although the cluster takes jobs from anyone.

    Raises:
        ClusterError: if it is not reached, knows another token, or is open to anyone who reaches it over a network.
    """

    def __init__(self, address: str, *, unprotected: bool = False) -> None:
        if not urlsplit(address).scheme.startswith("http"):
            raise ClusterError(f"{address}: give the address of the cluster's dashboard, like http://head:8265")
        if not unprotected and not _is_loopback(address) and is_open(address):
            raise ClusterError(
                f"{address} takes jobs from anyone who reaches it, and a job may do anything there; start the cluster with "
                "RAY_AUTH_MODE=token and a token that you share (docs/cluster.md), or say --unprotected if its network is private"
            )
        self.address = address
        self._client = _client(address)

    def attempts(self, study: str | None = None) -> list[Attempt]:
        """The jobs of studies that the cluster remembers, oldest first; of one study or of all."""
        found = [_attempt(job) for job in self._client.list_jobs() if "paretune.attempt" in (job.metadata or {})]
        return sorted((a for a in found if study in (None, a.study)), key=lambda a: (a.started or time.time(), a.number))

    def newest(self, study: str) -> Attempt:
        """The newest attempt of a study.

        Raises:
            ClusterError: if there is none.
        """
        attempts = self.attempts(study)
        if not attempts:
            known = ", ".join(dict.fromkeys(a.study for a in self.attempts())) or "none"
            raise ClusterError(f"{self.address} knows no job of a study {study}; it has had: {known}")
        return max(attempts, key=lambda a: a.number)

    def submit(self, study: str, command: Sequence[str], *, storage: str, cargo: Cargo) -> Attempt:
        """Start the next attempt of a study.

        Args:
            study: Its name.
            command: Of `paretune`, without that word.
            storage: Where the study lies, on the cluster.
            cargo: What the job is given.

        Raises:
            ClusterError: if an attempt of the study is at work.
        """
        number = 1
        if earlier := self.attempts(study):
            newest = max(earlier, key=lambda a: a.number)
            if newest.at_work:
                raise ClusterError(
                    f"{newest.id} is at work on {study}; follow it: paretune logs {study} -f --address {self.address}"
                )
            number = newest.number + 1
        self._client.submit_job(
            entrypoint=shlex.join([*COMMAND, *command]),
            submission_id=f"{study}-{number}",
            metadata={"paretune.study": study, "paretune.attempt": str(number), "paretune.storage": storage},
            runtime_env=cargo.runtime_env(PARETUNE_STORAGE=storage),
        )
        return _attempt(self._client.get_job_info(f"{study}-{number}"))

    def ask(self, name: str, command: Sequence[str], *, storage: str, cargo: Cargo, say: Callable[[str], object]) -> int:
        """Run a command of `paretune` on the cluster and wait for it.

        Args:
            name: What the job is called, before a number.
            command: Without the word `paretune`.
            storage: Where studies lie, on the cluster.
            cargo: What the job is given: of a study's newest attempt, so that the code is the one that made it.
            say: Takes what the command prints.

        Returns:
            Its exit code.
        """
        there = shlex.join([*COMMAND, *command])
        job = self._client.submit_job(
            entrypoint=f"echo {shlex.quote(_FIRST_WORD)} && {there}",
            submission_id=f"{name}-asked-{uuid.uuid4().hex[:8]}",
            runtime_env=cargo.runtime_env(PARETUNE_STORAGE=storage, COLUMNS="160"),
        )
        while self._client.get_job_status(job).value not in _ENDED:
            time.sleep(_POLL_SECONDS)
        details = self._client.get_job_info(job)
        lines = self._client.get_job_logs(job).splitlines(keepends=True)
        printed = "".join(line for line in lines if not line.startswith("Running entrypoint for job "))  # comes at any place
        say(printed.partition(f"{_FIRST_WORD}\n")[2] or f"{printed}{details.message or ''}\n")
        code = details.driver_exit_code
        return 1 if code is None else int(code)

    def logs(self, attempt: Attempt, *, follow: bool) -> Iterator[str]:
        """What an attempt has printed, and, while it runs, what it prints."""
        if not follow:
            yield self._client.get_job_logs(attempt.id)
            return
        lines = self._client.tail_job_logs(attempt.id)
        with asyncio.Runner() as runner:
            while (part := runner.run(anext(lines, None))) is not None:
                yield part

    def wait(self, attempt: Attempt, seconds: float) -> Attempt:
        """The attempt when it has ended, or as it is when the time is over."""
        end = time.monotonic() + seconds
        while (now := _attempt(self._client.get_job_info(attempt.id))).at_work and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return now


def is_open(address: str) -> bool:
    """Whether the cluster answers someone without a token; False where it cannot be reached."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=10) as answer:  # noqa: S310 - http only, see Jobs
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _is_loopback(address: str) -> bool:
    return urlsplit(address).hostname in ("127.0.0.1", "::1", "localhost")


def _client(address: str) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except ConnectionError as error:
        raise ClusterError(f"{address} is not reached; is the cluster up, and its dashboard on that port?") from error
    except (AuthenticationError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ClusterError(
            f"{address} refuses us: {first} Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (docs/cluster.md)"
        ) from error
    for talkative in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    return client


def _attempt(job: Any) -> Attempt:
    told, env = job.metadata, job.runtime_env or {}
    return Attempt(
        id=job.submission_id,
        study=told["paretune.study"],
        number=int(told["paretune.attempt"]),
        storage=told["paretune.storage"],
        state=job.status.value,
        message=job.message or "",
        started=None if job.start_time is None else job.start_time / 1000,
        cargo=Cargo(env.get("working_dir", ""), env.get("env_vars", {}), env.get("pip")),
    )
