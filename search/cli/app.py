"""The command line. Heavy libraries are imported by the commands that need them: `--help` and the reading commands stay quick."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from search.cli import (
    analyse,
    cluster,
    control,
    cost,
    doctor,
    finalize,
    methods,
    plan,
    run,
    show,
    simulate,
    status,
    suite,
    tracking,
)
from search.cli.options import MaybeStudyFile, Overrides, complain

if TYPE_CHECKING:
    from search.config.study_file import StudyFile

app = typer.Typer(
    name="paretune",
    help="Which adapter, at which size, is worth training on my data?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run.app)
app.add_typer(cluster.app)
app.add_typer(doctor.app)
app.add_typer(status.app)
app.add_typer(plan.app)
app.add_typer(control.app)
app.add_typer(simulate.app)
app.add_typer(show.app)
app.add_typer(analyse.app)
app.add_typer(methods.app)
app.add_typer(tracking.app)
app.add_typer(finalize.app)
app.add_typer(cost.app)
app.add_typer(suite.app)
INTERRUPTED = 130  # Typer's exit code after Ctrl-C


@app.callback()
def everywhere(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Option(envvar="PARETUNE_ADDRESS", metavar="URL", help="Of a Ray cluster: the command is about a study there."),
    ] = None,
) -> None:
    """Which adapter, at which size, is worth training on my data?"""
    command = context.invoked_subcommand
    if address is None or command is None:
        return
    if command in cluster.HERE:
        context.default_map = {command: {"address": address}}
        return
    typed = sys.argv[1:]
    raise typer.Exit(cluster.ask(address, typed[typed.index(command) :]))


def main() -> None:
    """The `paretune` command. Exit code 0: done; 1: the work failed or was interrupted; 2: the request was wrong."""
    code = _exit_code()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # nobody reads any more
            stream.flush()
    os._exit(code)  # taking down an interpreter with torch, Ray and Optuna in it would keep the user waiting for seconds


def _exit_code() -> int:
    from search.errors import RequestError

    try:
        app()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        complain("interrupted; nothing is lost, and the same command goes on from here")
        return 1
    except RequestError as error:
        complain(str(error))
        return 2
    except OSError as error:
        complain(f"{error}; nothing that was acknowledged is lost: mend this, and the same command goes on from here")
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


@app.command()
def validate(
    study: MaybeStudyFile = None,
    overrides: Overrides = None,
) -> None:
    """Check a study file and its images without running it; prints it resolved, with every default written out."""
    import yaml

    from search.config import study_file

    file = study_file.load(study, overrides or ())
    if isinstance(file.data, study_file.Images):
        _look_at_images(file)
    sys.stdout.write(yaml.safe_dump(file.resolved(), sort_keys=False))


def _look_at_images(file: StudyFile) -> None:
    """Decode them, unless this machine has done it, and say what there is; on standard error, beside the resolved file."""
    from search.cli.progress import Progress
    from search.errors import RequestError
    from search.workflows.preflight import skipped_in_words
    from trainables import audit

    worker = file.worker()
    try:
        found = audit(worker["backbone"], worker["data"], progress=Progress(Console(stderr=True)).decoded)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if found is not None:
        if found.skipped:
            complain(skipped_in_words(found.skipped))
        counts = ", ".join(f"{n:,} {split}" for split, n in found.n_images.items())
        complain(f"data: {counts} images of {found.n_classes} classes")


@app.command("cp")
def copy(
    name: Annotated[str, typer.Argument(help="A packaged study (`paretune ls` lists them).")],
    to: Annotated[Path | None, typer.Argument(help="Default: NAME.yaml in the current folder.")] = None,
) -> None:
    """Copy a packaged study file, which opens with its own manual, to start from."""
    from search.config import study_file
    from search.errors import RequestError

    text = study_file.packaged_text(name)
    target = to or Path(f"{name}.yaml")
    if target.is_dir():
        target /= f"{name}.yaml"
    try:
        with target.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise RequestError(f"{target} exists; name another place: paretune cp {name} OTHER.yaml") from None
    except OSError as error:
        raise RequestError(f"{target} cannot be written ({error.strerror})") from None
    Console().print(f"{target} written; edit it, then: paretune run {target}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
