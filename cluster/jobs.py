"""Studies as jobs of a Ray cluster that is reached by HTTP: `http://head:8265`.

A study is a sequence of jobs: attempt 1, and one more each time it is resumed. Every other request to a study (its front, its
events, pruning a trial) is a short job of its own, which runs near the ledger with the same code.
"""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.open_dashboards import open_to_anyone
from cluster.ray_address import NO_SECRET, may_hold_secret
from cluster.ray_internals import LOGGERS, NO_AGENT, head_has_no_agent

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_ENDED = ("STOPPED", "SUCCEEDED", "FAILED")
_FIRST_WORD = "---- paretune ----"  # printed by a short job before its answer, to separate it from Ray's own output
_POLL_SECONDS = 0.25
SHORT_JOB = "PARETUNE_SHORT_JOB"  # set in a short job: the id of the job that runs the study, empty if none does
COMMAND = ("python", "-m", "search.cli")  # `paretune` on a node, where nothing is installed: the packages travel with the job


class ClusterError(Exception):
    """The error that the cluster cannot do what is requested; the message names the remedy."""


@dataclass(frozen=True)
class Cargo:
    """The files, variables and packages of a job.

    Attributes:
        working_dir: Folder filled by `cluster.upload.stage`, or Ray's address of the files of an earlier job.
        environment: Environment variables of the job and its workers. Ray's dashboard shows them.
        pip: Packages that Ray installs first; None if the machines' image has them.
    """

    working_dir: str
    environment: Mapping[str, str]
    pip: Any = None

    def runtime_env(self, **more: str) -> dict[str, Any]:
        """Return Ray's runtime environment, with additional variables."""
        env: dict[str, Any] = {"working_dir": self.working_dir, "env_vars": {**self.environment, **more}}
        return env if self.pip is None else env | {"pip": self.pip}


@dataclass(frozen=True)
class Attempt:
    """One job of a study.

    Attributes:
        id: Submission id of Ray.
        study: Name of the study.
        number: Number of the attempt, counted from 1.
        storage: Storage folder of the study on the cluster.
        state: State in Ray: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED.
        message: Ray's message about the state.
        started: Unix time of the start, None while it is pending.
        cargo: Files, variables and packages of the job.
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
        """True until the attempt has ended."""
        return self.state not in _ENDED


class Jobs:
    """The studies of one cluster.

    Args:
        address: Address of its dashboard, `http://host:8265`.
        unprotected: True to continue although the cluster accepts jobs from anyone.

    Raises:
        ClusterError: If it cannot be reached, expects another token, or accepts jobs from anyone on its network.
    """

    def __init__(self, address: str, *, unprotected: bool = False) -> None:
        if may_hold_secret(address):
            raise ClusterError(f"the address of the cluster's dashboard {NO_SECRET}, like http://head:8265")
        if not urlsplit(address).scheme.startswith("http"):
            raise ClusterError(f"{address}: give the address of the cluster's dashboard, like http://head:8265")
        if not unprotected and (found := open_to_anyone(address)) is not None:
            raise ClusterError(
                f"{found}, and a job may do anything there; start the cluster with RAY_AUTH_MODE=token and a token that you share "
                "(docs/cluster.md), or add --unprotected if its network is private"
            )
        self.address = address
        self._client = _client(address)

    def attempts(self, study: str | None = None) -> list[Attempt]:
        """Return the jobs of one study or of all that the cluster remembers, oldest first."""
        with _answering(self.address):
            listed = self._client.list_jobs()
        found = [_attempt(job) for job in listed if "paretune.attempt" in (job.metadata or {})]
        return sorted((a for a in found if study in (None, a.study)), key=lambda a: (a.started or time.time(), a.number))

    def newest(self, study: str) -> Attempt:
        """Return the newest attempt of a study.

        Raises:
            ClusterError: If it has none.
        """
        attempts = self.attempts(study)
        if not attempts:
            known = ", ".join(dict.fromkeys(a.study for a in self.attempts())) or "none"
            raise ClusterError(f"{self.address} has no job of a study {study}; it has jobs of: {known}")
        return max(attempts, key=lambda a: a.number)

    def submit(self, study: str, command: Sequence[str], *, storage: str, cargo: Cargo) -> Attempt:
        """Start the next attempt of a study.

        Args:
            study: Name of the study.
            command: Arguments of `paretune`, without that word.
            storage: Storage folder of the study on the cluster.
            cargo: Files, variables and packages of the job.

        Raises:
            ClusterError: If an attempt of the study has not ended, or the cluster takes no job.
        """
        number = 1
        if earlier := self.attempts(study):
            newest = max(earlier, key=lambda a: a.number)
            if newest.at_work:
                raise ClusterError(
                    f"{newest.id} is still running {study}; follow it: paretune logs {study} -f --address {self.address}"
                )
            number = newest.number + 1
        with self._taking_jobs():
            self._client.submit_job(
                entrypoint=shlex.join([*COMMAND, *command]),
                submission_id=f"{study}-{number}",
                metadata={"paretune.study": study, "paretune.attempt": str(number), "paretune.storage": storage},
                runtime_env=cargo.runtime_env(PARETUNE_STORAGE=storage),
            )
            return _attempt(self._client.get_job_info(f"{study}-{number}"))

    def ask(
        self,
        name: str,
        command: Sequence[str],
        *,
        storage: str,
        cargo: Cargo,
        say: Callable[[str], object],
        follow: bool = False,
        running: Attempt | None = None,
    ) -> int:
        """Run a command of `paretune` on the cluster and wait for it.

        Args:
            name: Name of the job, to which a number is added.
            command: Arguments of `paretune`, without that word.
            storage: Storage folder of the studies on the cluster.
            cargo: Files, variables and packages of the job; those of a study's newest attempt run the code that created the study.
            say: Callback that receives the output of the command.
            follow: True to pass on the output while it is printed, and to stop the job if that is interrupted.
            running: Job that runs the study; None if none does.

        Returns:
            The exit code of the command.

        Raises:
            ClusterError: If the cluster takes no job.
        """
        there = shlex.join([*COMMAND, *command])
        variables = {"PARETUNE_STORAGE": storage, "COLUMNS": "160", SHORT_JOB: "" if running is None else running.id}
        with self._taking_jobs():
            job = self._client.submit_job(
                entrypoint=f"echo {shlex.quote(_FIRST_WORD)} && {there}",
                submission_id=f"{name}-asked-{uuid.uuid4().hex[:8]}",
                runtime_env=cargo.runtime_env(**variables),
            )
        answer = _Answer()
        if follow:
            try:
                for part in self._parts(job):
                    say(answer.new(part))
            except BaseException:
                self._client.stop_job(job)
                raise
        with _answering(self.address):
            while self._client.get_job_status(job).value not in _ENDED:
                time.sleep(_POLL_SECONDS)
            details = self._client.get_job_info(job)
            if not follow:
                say(answer.new(self._client.get_job_logs(job)))
        code = details.driver_exit_code
        if not answer.begun:
            say(f"{answer.before}{details.message or ''}\n")
        return 1 if code is None else int(code)

    def logs(self, attempt: Attempt, *, follow: bool) -> Iterator[str]:
        """Yield the output of an attempt so far and, with `follow`, its output until it ends."""
        if follow:
            yield from self._parts(attempt.id)
            return
        with _answering(self.address):
            text = self._client.get_job_logs(attempt.id)
        yield text

    def wait(self, attempt: Attempt, seconds: float) -> Attempt:
        """Wait until the attempt has ended or the time is up; return its current state."""
        end = time.monotonic() + seconds
        with _answering(self.address):
            while (now := _attempt(self._client.get_job_info(attempt.id))).at_work and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
        return now

    def _parts(self, job: str) -> Iterator[str]:
        """Yield the output of a job until it ends."""
        lines = self._client.tail_job_logs(job)
        with asyncio.Runner() as runner:
            while True:
                with _answering(self.address):
                    part = runner.run(anext(lines, None))
                if part is None:
                    return
                yield part

    @contextmanager
    def _taking_jobs(self) -> Iterator[None]:
        """Send a job inside the block. A head without a job agent is refused before anything is uploaded; Ray waits ten seconds."""
        if head_has_no_agent(self._client):
            raise ClusterError(_no_agent(self.address))
        with _answering(self.address):
            yield


class _Answer:
    """The output of a short job without what Ray prints before and in it.

    Attributes:
        before: Output before the answer.
        begun: True once the answer has begun.
    """

    def __init__(self) -> None:
        self.before, self.begun = "", False

    def new(self, part: str) -> str:
        """Return the answer in a further part of the output, which ends with a line."""
        lines = [line for line in part.splitlines(keepends=True) if not line.startswith("Running entrypoint for job ")]
        if not self.begun:
            if f"{_FIRST_WORD}\n" not in lines:
                self.before += "".join(lines)
                return ""
            self.begun = True
            lines = lines[lines.index(f"{_FIRST_WORD}\n") + 1 :]
        return "".join(lines)


@contextmanager
def _answering(address: str) -> Iterator[None]:
    """Turn what Ray's client raises inside the block into one line.

    Raises:
        ClusterError: If the cluster does not do what the block requests; the message has the remedy of a missing job agent.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:  # also the errors of the client's HTTP library
        if NO_AGENT in str(error):
            raise ClusterError(_no_agent(address)) from error
        raise ClusterError(f"{address} does not do what was requested: {_first_line(error)}") from error


def _no_agent(address: str) -> str:
    return (
        f"{address} takes no jobs: its head has no job agent, most likely because another program (another Ray) has the agent's "
        "port, 52365 (dashboard_agent.log on the head says so); start the head again with a free one: ray start --head "
        "--dashboard-agent-listen-port PORT"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _client(address: str) -> JobSubmissionClient:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
    except ConnectionError as error:
        raise ClusterError(f"{address} cannot be reached; is the cluster up, and its dashboard on that port?") from error
    except (AuthenticationError, RuntimeError) as error:
        raise ClusterError(
            f"{address} refuses access ({_first_line(error)}); set RAY_AUTH_MODE=token here, too, with the cluster's token in "
            "~/.ray/auth_token or in the file that RAY_AUTH_TOKEN_PATH names (docs/cluster.md)"
        ) from error
    for talkative in LOGGERS:
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
