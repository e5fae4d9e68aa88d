"""Commands for studies on a Ray cluster, from a laptop: submit, logs, and every other command with `--address`."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer
from rich.table import Table

from search.cli.options import MaybeSlots, MaybeStorage, Overrides, complain, print_json
from search.cli.silence import stop_telling
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from cluster.jobs import Attempt, Cargo, Jobs
    from search.config.study_file import StudyFile

app = typer.Typer()
Address = Annotated[
    str,
    typer.Option(
        envvar="PARETUNE_ADDRESS", metavar="URL", help="The cluster's dashboard, like http://head:8265.", show_default=False
    ),
]
HERE = (
    "submit",
    "logs",
    "doctor",
    "plan",
    "validate",
    "cp",
    "methods",
    "check-method",
    "count",
    "simulate",
    "ls",
    "run",
    "suite",
    "ui",
)  # commands that are not passed on to the cluster
_DETACHED = ("resume",)  # submitted as the study's next attempt
NOT_YET = 75  # exit code of a short job on a study that its first job has not made yet
_STARTS_SECONDS = 2.0  # between two looks at a study that is starting
_STUDY_FILE = "study.yaml"
_METHODS = "methods"  # folder of the user's methods in a job, where their names hide no module


@app.command()
def submit(
    study: Annotated[str, typer.Argument(metavar="STUDY.yaml", help="A study file, or the name of a packaged study.")],
    *,
    address: Address,
    overrides: Overrides = None,
    storage: MaybeStorage = None,
    slots: MaybeSlots = None,
    pip: Annotated[bool, typer.Option("--pip", help="Let Ray install Paretune's requirements; otherwise they must exist.")] = False,
    unprotected: Annotated[
        bool, typer.Option("--unprotected", help="Accept a cluster without a token; its network is private.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print the job's output until it ends.")] = False,
    then: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="See run; on the cluster, with the rights of the job.")
    ] = None,
    notify: Annotated[str | None, typer.Option(metavar="URL", help="See run; Ray's dashboard shows it.")] = None,
) -> None:
    """Run a study as a job of a Ray cluster: the same search as `run`. Submitting it again resumes it."""
    from cluster.jobs import Cargo
    from cluster.upload import local_paths, requirements
    from search.config import loading
    from search.errors import RequestError
    from search.workflows.notify import check_url

    check_url(notify, public=True)
    file = loading.load(study, overrides or (), storage)
    if problems := list(local_paths(file.resolved(), file.storage, file.shared)):
        raise RequestError("\n".join(problems))
    environment = _environment()
    jobs = connected(address, unprotected=unprotected)
    with _staged(file, file.places()) as (folder, named):  # a server's password must be known to the cluster only
        command = ["run", _STUDY_FILE, "--storage", str(file.storage), *(["--slots", str(slots)] if slots else [])]
        command += [*(["--then", then] if then else []), *(["--notify", notify] if notify else [])]
        environment |= named | ({"PARETUNE_UNPROTECTED": "1"} if unprotected else {})
        cargo = Cargo(folder, environment, requirements(postgres=file.ledger is not None) if pip else None)
        _start(jobs, file.study, command, str(file.storage), cargo)
    if follow:
        _print_logs(jobs, file.study, follow=True)


@app.command()
def logs(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    *,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job ends.")] = False,
) -> None:
    """Print the output of a study's newest job."""
    study = _named(study)
    jobs = connected(address)
    _print_logs(jobs, study, follow=follow)


def ask(address: str, command: Sequence[str]) -> int:
    """Pass a command on to the cluster, and print its answer.

    Args:
        address: Address of the cluster.
        command: Command line without `paretune` and `--address`; its second word is the study.

    Returns:
        The exit code.
    """
    from search.errors import RequestError
    from search.workflows.notify import check_url

    words = [word for word in command[1:] if not word.startswith("-")]
    if not words:
        raise RequestError(f"{command[0]}: name a study: paretune --address {address} {command[0]} STUDY")
    name = _named(words[0])
    for word, value in zip(command, (*command[1:], ""), strict=True):
        if word.partition("=")[0] == "--notify":
            check_url(word.partition("=")[2] or value, public=True)
    jobs = connected(address)
    attempt = jobs.newest(name)
    if command[0] in _DETACHED:
        _start(jobs, attempt.study, command, attempt.storage, attempt.cargo)
        return 0
    watches = command[0] == "status" and not {"--watch", "-w"}.isdisjoint(command)
    while (code := _answer(jobs, attempt, command, follow=watches)) == NOT_YET:
        if not (attempt := jobs.newest(name)).at_work:
            raise RequestError(f"{attempt.id} is {attempt.state} and has made no study; its output: paretune logs {name}")
        _say_that_it_starts(attempt, command)
        if not watches:
            return 0 if command[0] == "status" else 2
        time.sleep(_STARTS_SECONDS)
    return code


def _answer(jobs: Jobs, attempt: Attempt, command: Sequence[str], *, follow: bool) -> int:
    """Run a command on a study's cluster, and print its answer.

    Returns:
        The exit code, `NOT_YET` if the study's first job has not made the study yet.
    """
    if attempt.state == "PENDING" and attempt.number == 1:
        return NOT_YET  # a short job would wait for the same machines and packages
    if follow:
        stop_telling()
    running = attempt if attempt.at_work else None
    return jobs.ask(
        attempt.study, command, storage=attempt.storage, cargo=attempt.cargo, say=_write, follow=follow, running=running
    )


def is_short_job() -> bool:
    """Return whether this command is a short job, whose output a laptop prints."""
    from cluster.jobs import SHORT_JOB

    return SHORT_JOB in os.environ


def is_before_its_study() -> bool:
    """Return whether this command is a short job that was started while the first job of its study was at work."""
    from cluster.jobs import SHORT_JOB

    return bool(os.environ.get(SHORT_JOB))


def _say_that_it_starts(attempt: Attempt, command: Sequence[str]) -> None:
    """Say that a study is starting: as the answer to `status`, else as the reason why there is no answer."""
    waits = attempt.message.strip().splitlines() if attempt.state == "PENDING" else []
    why = f": {waits[0]}" if waits else ""
    if command[0] != "status":
        complain(
            f"{attempt.study} is starting; {attempt.id} is {attempt.state} and has not made the study yet{why}; "
            f"follow it: paretune logs {attempt.study} -f"
        )
    elif "--json" in command:
        print_json({"study": attempt.study, "state": "STARTING", "job": attempt.id, "job_state": attempt.state})
    else:
        Terminal(soft_wrap=True).print(f"{attempt.study} is starting; {attempt.id} is {attempt.state}{why}")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def list_jobs(address: str, *, as_json: bool) -> None:
    """Print the studies of a cluster's jobs, each with its newest job."""
    from search.config.loading import packaged_names

    newest = {attempt.study: attempt for attempt in sorted(connected(address).attempts(), key=lambda attempt: attempt.number)}
    attempts = [newest[study] for study in sorted(newest)]
    if as_json:
        told = [{"name": one.study, "state": one.state.lower(), "path": one.storage, "job": one.id} for one in attempts]
        print_json({"studies": told, "packaged": packaged_names()})
        return
    table = Table("study", "newest job", "state", "storage on the cluster", box=None)
    for one in attempts:
        table.add_row(one.study, one.id, one.state.lower(), one.storage)
    console = Terminal()
    console.print(f"Studies of {address}; those of this machine: paretune ls without PARETUNE_ADDRESS", soft_wrap=True, style="dim")
    console.print(table if attempts else "It has no job of a study.")


def ask_about(file: StudyFile, address: str, command: str, words: Sequence[str], *, pip: bool, unprotected: bool) -> int:
    """Run a command on a study file on a cluster, in a short job, and print its answer.

    Args:
        file: Study file.
        address: Address of the cluster.
        command: Command of `paretune` whose argument is the file.
        words: Further arguments.
        pip: Option of `submit`.
        unprotected: Option of `submit`.

    Returns:
        The exit code.
    """
    from cluster.jobs import Cargo
    from cluster.upload import local_paths, requirements
    from search.errors import RequestError

    if problems := list(local_paths(file.resolved(), Path("/"))):  # the command stores nothing
        raise RequestError("\n".join(problems))
    jobs = connected(address, unprotected=unprotected)
    with _staged(file) as (folder, named):
        cargo = Cargo(folder, named, requirements() if pip else None)
        name = f"{file.study}-{command}"
        return jobs.ask(name, [command, _STUDY_FILE, *words], storage="paretune-studies", cargo=cargo, say=sys.stdout.write)


@contextmanager
def _staged(file: StudyFile, places: Mapping[str, str] | None = None) -> Iterator[tuple[str, dict[str, str]]]:
    """Create the temporary folder that a job uploads: our packages, the study file, and the files of the user's methods.

    Args:
        file: Study file.
        places: Further keys of the file.

    Yields:
        The folder, and the environment that names these methods to every command of the job.
    """
    import yaml

    from cluster.upload import stage
    from search.errors import RequestError
    from trainables.method_files import VARIABLE

    own = {name: method.file(None) for name, method in file.own_methods.items()}
    paths = {name: f"{_METHODS}/{name}.py" for name, code in own.items() if not code.is_module}
    study = file.written(paths) | dict(places or {})
    files = {path: own[name].text for name, path in paths.items()}
    with tempfile.TemporaryDirectory(prefix="paretune-job-") as folder:
        try:
            stage(Path(folder), {_STUDY_FILE: yaml.safe_dump(study, sort_keys=False), **files})
        except ValueError as error:
            raise RequestError(str(error)) from error
        yield folder, {VARIABLE: os.pathsep.join(paths.values())} if paths else {}


def connected(address: str, *, unprotected: bool = False) -> Jobs:
    """Return the cluster's jobs.

    Raises:
        ClusterError: If the cluster cannot be reached, refuses access, or accepts jobs from anyone.
    """
    from cluster.jobs import Jobs

    return Jobs(address, unprotected=unprotected)


def _start(jobs: Jobs, study: str, command: Sequence[str], storage: str, cargo: Cargo) -> None:
    attempt = jobs.submit(study, command, storage=storage, cargo=cargo)
    console = Terminal(soft_wrap=True)
    console.print(f"{attempt.id} submitted to {jobs.address}")
    console.print(f"  paretune logs {study} -f --address {jobs.address}")
    console.print(f"  paretune --address {jobs.address} front {study}", style="dim")


def _print_logs(jobs: Jobs, study: str, *, follow: bool) -> None:
    attempt = jobs.newest(study)
    if follow:
        stop_telling()
    for part in jobs.logs(attempt, follow=follow):
        _write(part)
    if not follow:
        return
    ended = jobs.wait(attempt, seconds=10.0)
    if ended.state != "SUCCEEDED":
        complain(f"{ended.id} is {ended.state}: {(ended.message.strip().splitlines() or ['no reason given'])[0]}")
        raise typer.Exit(1)


def _named(study: str) -> str:
    """Return the name of a study on a cluster.

    Raises:
        RequestError: If it is no study's name. A word that may be an address is not repeated: Ray's dashboard shows commands.
    """
    from search.errors import RequestError
    from search.names import LAW, is_study_name

    if not is_study_name(study):
        raise RequestError(f"STUDY: on a cluster a study is given by its name: {LAW}")
    return study


def _environment() -> dict[str, str]:
    """Return the job's environment: the address of MLflow. It never contains a secret; secrets belong to the cluster."""
    from search.errors import RequestError
    from search.secret import SecretAddress

    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri or urlsplit(uri).scheme not in ("http", "https"):
        return {}
    if SecretAddress(uri).is_secret:
        raise RequestError(
            "MLFLOW_TRACKING_URI contains a password or a token, which Ray's dashboard would show; "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment of the cluster's machines"
        )
    return {"MLFLOW_TRACKING_URI": uri}
