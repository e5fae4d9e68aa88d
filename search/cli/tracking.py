"""Commands about a study's record in MLflow: update it, compare it with the ledger, register a model, open the pages."""

from __future__ import annotations

import fcntl
import json
from typing import Annotated

import typer

from search.cli.options import DEFAULT_STORAGE, Storage, StudyName, TrialNumber, complain, folder_of
from search.cli.silence import stop_telling
from search.cli.terminal import Terminal

app = typer.Typer()


@app.command()
def sync(
    study: StudyName,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; list all differences (exit code 1 if any).")] = False,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Update a study's record in MLflow from its ledger, or compare the two in full."""
    from search.errors import RequestError
    from search.storage.location import ledger_in
    from search.storage.sql_ledger import SqlLedger
    from search.tracking.mlflow_client import describe_error, tracking_uri
    from search.tracking.sync import MlflowSync
    from search.tracking.verify import differences

    folder = folder_of(study, storage)
    ledger, uri = ledger_in(folder), tracking_uri(folder.parent)
    SqlLedger.open(ledger).close()  # raises an error if there is no ledger
    console = Terminal(soft_wrap=True)
    try:
        if not check:
            with (folder / ".recorder.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RequestError(f"the driver of study {folder.name} is recording it right now; nothing to do") from None
                MlflowSync(ledger, uri).sync(final=True)
            console.print(f"MLflow at {uri} is up to date with study {folder.name}")
            return
        found = differences(ledger, uri)
    except RequestError:
        raise
    except Exception as error:
        complain(f"MLflow at {uri} cannot be used ({describe_error(error, uri)}); run the same command again to continue")
        raise typer.Exit(1) from None
    for line in found:
        console.print(line)
    if found:
        complain(f"{len(found)} differences; update MLflow: paretune sync {study}")
        raise typer.Exit(1)
    console.print(f"MLflow at {uri} matches the ledger of study {folder.name} exactly")


@app.command()
def register(
    study: StudyName,
    trial: TrialNumber,
    name: Annotated[str | None, typer.Option(help="Name of the model; default: the study's name.")] = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Register a trial's adapter as a version of a model in MLflow: code and safetensors, nothing pickled."""
    from search.results.saved_study import load
    from search.tracking.mlflow_client import tracking_uri
    from search.tracking.sync import register as register_model
    from search.workflows.export_adapter import export_adapter, refuse_changed

    saved = load(folder_of(study, storage))
    adapter = saved.folder / "adapters" / f"{trial:04d}"
    if adapter.exists():
        refuse_changed(saved)
    else:
        export_adapter(saved, trial, adapter)
    name = name or saved.name
    uri = tracking_uri(saved.folder.parent)
    complain(f"registering trial {trial} of {saved.name} as {name}")
    version = register_model(saved.folder, uri, trial, name)
    console = Terminal(soft_wrap=True)
    taken = json.loads((adapter / "card.json").read_text())["preprocessing"]
    shape = (1, taken["channels"], *taken["size"])
    console.print("import mlflow.pyfunc, numpy")
    if uri.is_secret:
        console.print("# with the environment variable MLFLOW_TRACKING_URI of this command, whose secret is not repeated here")
    else:
        console.print(f"mlflow.set_tracking_uri({uri.reveal()!r})")
    console.print(f'model = mlflow.pyfunc.load_model("models:/{name}/{version}")  # where Paretune is installed')
    console.print(f'images = numpy.zeros({shape}, "uint8")  # yours: (n, channels, height, width), pixels of 0 to 255')
    console.print("model.predict(images)  # (n, classes) probabilities")


@app.command()
def ui(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Open the page of this study.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port; default: a free one.")] = None,
) -> None:
    """Open the studies in MLflow, on this machine's loopback address."""
    from search.tracking.server import serve

    if study is not None:
        folder = folder_of(study, storage)
        study, storage = folder.name, folder.parent

    def say(line: str) -> None:
        stop_telling()  # the server is up, and runs until the user ends it
        Terminal(soft_wrap=True).print(line)

    serve(storage, study=study, port=port, say=say)
