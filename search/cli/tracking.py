"""The commands about a study's record in MLflow: bring it up to date, compare it with the ledger, look at it."""

from __future__ import annotations

import fcntl
from typing import Annotated

import typer
from rich.console import Console

from search.cli.options import DEFAULT_STORAGE, Storage, StudyName, TrialNumber, complain, folder_of

app = typer.Typer()


@app.command()
def sync(
    study: StudyName,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; list every difference, and end with 1 if any.")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Bring a study's record in MLflow up to date with its ledger, or compare the two in full."""
    from search.errors import RequestError
    from search.storage.location import ledger_in
    from search.storage.sql_ledger import SqlLedger
    from search.tracking.mlflow_client import describe_error, tracking_uri, without_secret
    from search.tracking.sync import MlflowSync
    from search.tracking.verify import differences

    folder = folder_of(study, storage)
    ledger, uri = ledger_in(folder), tracking_uri(folder.parent)
    SqlLedger.open(ledger).close()  # tells if there is none
    console = Console(highlight=False, soft_wrap=True, markup=False)
    try:
        if not check:
            with (folder / ".recorder.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RequestError(f"study {folder.name} is being recorded by its own driver just now; nothing to do") from None
                MlflowSync(ledger, uri).sync(final=True)
            console.print(f"MLflow at {without_secret(uri)} is up to date with study {folder.name}")
            return
        found = differences(ledger, uri)
    except RequestError:
        raise
    except Exception as error:
        complain(
            f"MLflow at {without_secret(uri)} cannot be used ({describe_error(error, uri)}); the same command goes on from there"
        )
        raise typer.Exit(1) from None
    for line in found:
        console.print(line)
    if found:
        complain(f"{len(found)} differences; `paretune sync {study}` brings MLflow up to date")
        raise typer.Exit(1)
    console.print(f"MLflow at {without_secret(uri)} holds exactly what the ledger of study {folder.name} holds")


@app.command()
def register(
    study: StudyName,
    trial: TrialNumber,
    name: Annotated[str | None, typer.Option(help="Of the model; default: the study's.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Register a trial's adapter as a version of a model in MLflow: code and safetensors, nothing pickled."""
    from search.results.saved_study import load
    from search.tracking.mlflow_client import tracking_uri
    from search.tracking.sync import register as register_model
    from search.workflows.export_adapter import export_adapter

    saved = load(folder_of(study, storage))
    adapter = saved.folder / "adapters" / f"{trial:04d}"
    if not adapter.exists():
        export_adapter(saved, trial, adapter)
    name = name or saved.name
    version = register_model(saved.folder, tracking_uri(saved.folder.parent), trial, name)
    Console(highlight=False, soft_wrap=True).print(f'mlflow.pyfunc.load_model("models:/{name}/{version}")')


@app.command()
def ui(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Open at this study.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: a free one.")] = None,
) -> None:
    """Look at the studies in MLflow, on this machine's loopback address."""
    from search.tracking.server import serve

    if study is not None:
        folder = folder_of(study, storage)
        study, storage = folder.name, folder.parent
    serve(storage, study=study, port=port)
