"""The command line. Commands import heavy libraries themselves, so that `--help` and the reading commands stay fast."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from functools import cache
from typing import Annotated, cast

import typer

from search.cli import (
    analyse,
    cluster,
    control,
    cost,
    doctor,
    export,
    finalize,
    learn,
    methods,
    plan,
    predict,
    run,
    show,
    simulate,
    status,
    study_files,
    suite,
    tracking,
)
from search.cli.options import complain
from search.cli.silence import tell_silence
from search.workflows.library_logs import held
from trainables.method_files import name_file

app = typer.Typer(
    name="paretune",
    help="Which adapter, at which size, is worth training on my data?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(study_files.app)
app.add_typer(run.app)
app.add_typer(cluster.app)
app.add_typer(doctor.app)
app.add_typer(status.app)
app.add_typer(plan.app)
app.add_typer(control.app)
app.add_typer(simulate.app)
app.add_typer(show.app)
app.add_typer(export.app)
app.add_typer(predict.app)
app.add_typer(analyse.app)
app.add_typer(methods.app)
app.add_typer(tracking.app)
app.add_typer(finalize.app)
app.add_typer(cost.app)
app.add_typer(learn.app)
app.add_typer(suite.app)
INTERRUPTED = 130  # Typer's exit code after Ctrl-C


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        sys.stdout.write(f"paretune {version('paretune')}\n")
        raise typer.Exit


@app.callback()
def everywhere(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    address: Annotated[
        str | None,
        typer.Option(envvar="PARETUNE_ADDRESS", metavar="URL", help="A Ray cluster's address: run the command on a study there."),
    ] = None,
    method_file: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A file with a method of your own, whose code may run; repeatable; or PARETUNE_METHODS."),
    ] = None,
) -> None:
    """Pass the command on to a Ray cluster if `--address` names one."""
    for path in method_file or ():
        name_file(path)
    command = context.invoked_subcommand
    if address is None or command is None:
        return
    if command in cluster.HERE:
        context.default_map = {command: {"address": address}}
        return
    typed = sys.argv[1:]
    raise typer.Exit(cluster.ask(address, typed[typed.index(command) :]))


@cache
def _command() -> typer.core.TyperGroup:
    """Return the tree of commands, which takes some time to build."""
    return cast(typer.core.TyperGroup, typer.main.get_command(app))


def main() -> None:
    """Run the `paretune` command. Exit code 0: done; 1: the work failed or was interrupted; 2: the request was wrong."""
    name = next((word for word in sys.argv[1:] if word in _command().commands), None)
    if name is not None and "--json" not in sys.argv and not cluster.is_short_job():  # a job's output is one stream
        tell_silence(name)
    with held():  # the libraries' warnings, for a study's log
        code = exit_code()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader has closed the stream
            stream.flush()
    os._exit(code)  # a clean interpreter shutdown with torch, Ray and Optuna loaded would take seconds


def _interrupted() -> int:
    complain("interrupted; nothing is lost, and the same command resumes from here")
    return 1


def exit_code() -> int:
    """Run the command in `sys.argv`, and return the exit code of the process."""
    from search.errors import NoLedger, RequestError
    from search.secret import hide_secrets

    try:
        _command()()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return _interrupted()
    except RequestError as error:
        if isinstance(error, NoLedger) and cluster.is_before_its_study():
            return cluster.NOT_YET
        complain(str(error))
        return 2
    except OSError as error:
        from cluster.ray_address import Unreachable

        if isinstance(error, Unreachable):
            complain(str(error))
            return 2
        complain(f"{error}; nothing that was acknowledged is lost: fix this, and the same command resumes from here")
        return 1
    except Exception as error:
        from cluster.jobs import ClusterError

        if isinstance(error, ClusterError):
            complain(str(error))
            return 2
        sys.stderr.write(hide_secrets(traceback.format_exc()))
        return 1
    return 0


if __name__ == "__main__":
    main()
