"""The command line. Heavy libraries are imported by the commands that need them: `--help` and the reading commands stay quick."""

from __future__ import annotations

import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.constrain import Constrain
from rich.table import Column, Table

from search import (
    by_hand,
    cluster_commands,
    cost_command,
    doctor_command,
    finalize_command,
    look_back_commands,
    plan_command,
    record_commands,
    run_command,
    simulate_command,
    status_command,
    suite_command,
)
from search.arguments import DEFAULT_STORAGE, Json, MaybeStudyFile, Overrides, Storage, StudyName, TrialNumber, complain, folder_of

if TYPE_CHECKING:
    from search.config import StudyFile
    from search.saved import SavedStudy

app = typer.Typer(
    name="paretune",
    help="Which adapter, at which size, is worth training on my data?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run_command.app)
app.add_typer(cluster_commands.app)
app.add_typer(doctor_command.app)
app.add_typer(status_command.app)
app.add_typer(plan_command.app)
app.add_typer(by_hand.app)
app.add_typer(simulate_command.app)
app.add_typer(look_back_commands.app)
app.add_typer(record_commands.app)
app.add_typer(finalize_command.app)
app.add_typer(cost_command.app)
app.add_typer(suite_command.app)
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
    if address is None or command is None or command in cluster_commands.HERE:
        return
    typed = sys.argv[1:]
    raise typer.Exit(cluster_commands.ask(address, typed[typed.index(command) :]))


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

    from search import config

    file = config.load(study, overrides or ())
    if isinstance(file.data, config.Images):
        _look_at_images(file)
    sys.stdout.write(yaml.safe_dump(file.resolved(), sort_keys=False))


def _look_at_images(file: StudyFile) -> None:
    """Decode them, unless this machine has done it, and say what there is; on standard error, beside the resolved file."""
    from search.driver import skipped_in_words
    from search.errors import RequestError
    from search.progress import Progress
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
    from search import config
    from search.errors import RequestError

    text = config.packaged_text(name)
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


@app.command()
def front(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Print the Pareto front of a study."""
    from search import report

    saved = _load(study, storage)
    if as_json:
        _print_json(report.front_json(saved.record, saved.history))
    else:
        run_command.show_front(saved)


@app.command()
def events(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Print everything that happened in a study, in order: when, who, what, why."""
    from datetime import datetime

    from search.ledger import Ledger
    from search.places import ledger_in

    history = Ledger.open(ledger_in(folder_of(study, storage))).events()
    if as_json:
        _print_json([vars(event) for event in history])
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for event in history:
        when = datetime.fromtimestamp(event.time).isoformat(" ", "seconds")
        trial = "" if event.trial is None else f"{event.trial:04d}"
        why = ", ".join(f"{key} {value}" for key, value in event.detail.items())
        console.print(f"{when}  {event.kind:<10} {trial:<4}  {why or '-'}  ({event.who})")


@app.command()
def trials(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    rejected: Annotated[bool, typer.Option("--rejected", help="The configurations refused before training, and why.")] = False,
    as_json: Json = False,
) -> None:
    """List the trials of a study."""
    from search import report

    saved = _load(study, storage)
    if rejected:
        if as_json:
            _print_json([{"config": config, "reason": reason} for config, reason in saved.rejections])
            return
        table = Table("configuration", "reason", box=None)
        for config, reason in saved.rejections:
            table.add_row(" ".join(f"{key}={value}" for key, value in config.items()), reason)
        Console().print(table)
    elif as_json:
        _print_json([report.trial_json(trial) for trial in saved.history])
    else:
        Console().print(Constrain(report.trials_table(saved.history), report.TABLE_WIDTH))


@app.command()
def show(
    study: StudyName,
    trial: TrialNumber,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show one trial: configuration, metrics per epoch, what happened to it."""
    from search import report
    from search.errors import RequestError

    saved = _load(study, storage)
    if trial >= len(saved.history):
        raise RequestError(f"study {saved.name} has no trial {trial}; it has {len(saved.history)}, counted from 0")
    one = saved.history[trial]
    reports = [r for r in saved.epochs if r.trial == trial]
    if as_json:
        history = [{"epoch": r.epoch, "metrics": dict(r.metrics)} for r in reports]
        _print_json(report.trial_json(one) | {"reports": history})
        return
    console = Console()
    console.print(f"[bold]{one.label}[/]  {one.state}" + (f": {one.reason}" if one.reason else ""), highlight=False)
    facts = Table(box=None, show_header=False)
    for key, value in one.config.items():
        facts.add_row(key, str(value))
    facts.add_row("adapter_params", f"{one.adapter_params:,}")
    facts.add_row("head_params", f"{one.head_params:,}")
    for key, value in report.costs(one.metrics):
        facts.add_row(key, value)
    console.print(facts)
    keys = [key for key in (reports[-1].metrics if reports else {}) if not key.startswith("cost/")]
    curve = Table("epoch", *keys, box=None)
    for r in reports:
        curve.add_row(str(r.epoch), *(f"{r.metrics[key]:.4f}" for key in keys))
    console.print(curve)


@app.command("export-adapter")
def export(
    study: StudyName,
    trial: TrialNumber,
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.")],
    *,
    merge: Annotated[bool, typer.Option("--merge", help="Fold the adapter into the weights: a plain timm model.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Take a trial's adapter home: safetensors and a card that says what it is; prints the lines that load it."""
    from dataclasses import asdict

    from search.export import export_adapter
    from search.trial import State

    saved = _load(study, storage)
    card = export_adapter(saved, trial, to, merged=merge)
    if card.origin["state"] != State.COMPLETE:
        done = "{done} of {planned} epochs".format(**card.epochs)
        complain(f"trial {trial} is {card.origin['state']}: what was written has {done}")
    if as_json:
        _print_json({"path": str(to), "file": card.file, "card": asdict(card), "load": card.lines(to)})
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{to / card.file} and {to / 'card.json'} written; to load it:\n\n{card.lines(to)}")


@app.command("ls")
def list_studies(
    server: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="A PostgreSQL database, instead of the storage.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """List the studies under the storage, or in a database."""
    from search.config import packaged_names
    from search.errors import LedgerError
    from search.places import places
    from search.saved import load

    found, problems = [], []
    for place in places(storage, server):
        name, state, where = place.folder.name, "unreadable", str(place.address or place.folder)
        try:
            saved = load(place.folder, place.address)
            name, state = saved.name, saved.state.lower()
        except LedgerError as error:
            problems.append(str(error))
        found.append({"name": name, "state": state, "path": where})
    if as_json:
        _print_json({"studies": found, "packaged": packaged_names()})
    else:
        table = Table("study", "state", "folder", box=None)
        for one in found:
            table.add_row(one["name"], one["state"], one["path"])
        console = Console(highlight=False)
        console.print(table if found else f"No study in {server or storage}.")
        console.print(f"Packaged: {', '.join(packaged_names())} (paretune run NAME, paretune cp NAME)", soft_wrap=True)
    if problems:
        raise LedgerError("\n".join(problems))


@app.command()
def methods(as_json: Json = False) -> None:
    """List the adapter methods and their knobs."""
    import spaces

    every = spaces.SPACES | {name: spaces.space_of(name) for name in spaces.peft.tuners()}
    if as_json:
        rows = [
            {
                "method": name,
                "knobs": [
                    {"key": k.key, "values": str(k.distribution), "default": k.default, "unit": k.unit, "meaning": k.meaning}
                    | {"source": k.source}
                    for k in space.knobs
                ],
            }
            for name, space in every.items()
        ]
        _print_json({"methods": rows})
        return
    console = Console()
    for name, space in [*every.items(), ("every method", spaces.Space("", spaces.SHARED))]:
        key = Column("knob", min_width=max((len(knob.key) for knob in space.knobs), default=0))
        table = Table(key, "default", "values", "meaning", title=name, title_justify="left", title_style="bold", box=None)
        for knob in space.knobs:
            table.add_row(knob.key, str(knob.default), spaces.in_words(knob.distribution), knob.meaning)
        console.print(table if space.knobs else f"[bold]{name}[/]\nno knobs of its own", highlight=False)
        console.print()
    if not spaces.peft.installed():
        console.print(f"The tuners of Hugging Face PEFT are methods too, as peft.<tuner>; {spaces.peft.REMEDY}", markup=False)


@app.command()
def count(
    method: Annotated[str, typer.Option(help="The adapter method.")],
    backbone: Annotated[str, typer.Option(help="vit_glyphs or a timm name.")] = "vit_glyphs",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="knob=value", help="A knob without the method's prefix.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the head, which is counted apart.")] = 1000,
    as_json: Json = False,
) -> None:
    """Count the parameters that an adapter would train, exactly, without training or allocating anything."""
    import yaml

    import spaces
    from search.errors import RequestError
    from trainables import measure

    try:
        config = spaces.joint([method]).default(method)
        for assignment in overrides or ():
            knob, equals, value = assignment.partition("=")
            if not equals:
                raise ValueError(f"--set {assignment}: an override is written knob=value")
            config[f"{method}.{knob.removeprefix(method + '.')}"] = yaml.safe_load(value)
        sizes = measure({"name": backbone}, {"kind": "none", "n_classes": classes})
        adapter_params, head_params = sizes.count(config)
    except (ValueError, yaml.YAMLError) as error:
        raise RequestError(str(error)) from error
    own = {key.removeprefix(f"{method}."): value for key, value in config.items() if key.startswith(f"{method}.")}
    if as_json:
        counted = {"adapter_params": adapter_params, "head_params": head_params}
        _print_json({"method": method, "backbone": backbone, "config": own} | counted)
        return
    knobs = " ".join(f"{key}={value}" for key, value in own.items())
    console = Console()
    console.print(f"{method} on {backbone}  {knobs}", highlight=False, soft_wrap=True)
    share = adapter_params / sizes.backbone_params
    console.print(f"adapter {adapter_params:>12,}  ({share:.3%} of the backbone's {sizes.backbone_params:,})", highlight=False)
    console.print(f"head    {head_params:>12,}  ({classes} classes)", highlight=False)


def _load(study: str, storage: Path) -> SavedStudy:
    from search.saved import load

    return load(folder_of(study, storage))


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()
