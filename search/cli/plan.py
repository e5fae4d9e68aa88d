"""`paretune plan`: the size of a study's space, and the cost of the study."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from search.cli.cluster import ask_about
from search.cli.options import Json, MaybeStudyFile, Overrides, complain, print_json
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from search.config.study_file import StudyFile
    from search.costs import Sizes
    from search.workflows.plan import Cost, Holding, Range
    from trainables.costs.speed import Speed

app = typer.Typer()
_FOR_WORKERS = 0.7  # fraction of a machine's memory for workers; Ray keeps the rest for its object store
_DRAWING, _PREDICTING, _SIMULATING = 6.0, 12.0, 10.0  # seconds; a slow machine gets fewer draws, configurations and searches
_EVERY = 2.0  # seconds between two lines about the progress of one thing
_PATIENCE = 900.0  # seconds to wait for a node that an autoscaler starts
_BARS = " ▁▂▃▄▅▆▇█"


@app.command()
def plan(
    study: MaybeStudyFile = None,
    *,
    overrides: Overrides = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Concurrent trials; default: as many as fit on this machine.")] = None,
    address: Annotated[
        str | None, typer.Option(envvar="PARETUNE_ADDRESS", metavar="URL", help="A Ray cluster: measure there, for its slots.")
    ] = None,
    pip: Annotated[bool, typer.Option("--pip", help="See submit.")] = False,
    unprotected: Annotated[bool, typer.Option("--unprotected", help="See submit.")] = False,
    as_json: Json = False,
) -> None:
    """Show the size of the space and the cost of the study, from counted work and this machine's or a node's speed."""
    begun = time.perf_counter()
    say = _Told(quiet=as_json)  # a job's output is one stream
    say("reading the study file")
    from search.config import loading

    file = loading.load(study, overrides or ())
    if address is not None:
        words = [*(["--slots", str(slots)] if slots else []), *(["--json"] if as_json else [])]
        raise typer.Exit(ask_about(file, address, "plan", words, pip=pip, unprotected=unprotected))
    say(f"building {file.backbone.name} without its weights")
    from search.config.prefix_cache import prefix_fact
    from search.errors import RequestError
    from search.study.checks import note_on_hours, notes_on
    from search.workflows import epoch_seconds, preflight
    from search.workflows import plan as planning
    from trainables import count_epochs, measure

    worker = file.worker()
    try:
        sizes = measure(worker["backbone"], worker["data"], worker.get("methods", ()))
        prefix = prefix_fact(file, sizes)
        worker["recipe"] |= prefix.as_recipe()
        work = count_epochs(**worker)
        max_params = file.budget.max_params or sizes.backbone_params
        starts = time.perf_counter() - begun
        held = planning.holdings(file, sizes, max_params, seconds=_DRAWING, on_done=say.progress)
        machine = (_measured_there if os.environ.get("RAY_ADDRESS") else _measured_here)(file, sizes, slots, say)
        configs = planning.to_probe(file, sizes, max_params, planning.N_PREDICTED, seconds=_DRAWING)
        told = epoch_seconds.reports(file, prefix)
        predicted = epoch_seconds.predict(configs, work, machine.speed, told, seconds=_PREDICTING, on_done=say.progress)
    except ValueError as error:
        raise RequestError(str(error)) from error
    n_slots = machine.n_slots
    found = planning.cost(
        file,
        predicted,
        planning.epochs(file, seconds=_SIMULATING, on_done=say.progress),
        n_slots=n_slots,
        start_seconds=starts + machine.seconds,
        setup_seconds=machine.speed.setup_seconds,
        memory_bytes=planning.peak_bytes(max(preflight.training_bytes(file, sizes), default=0), sizes, machine.speed),
    )
    if as_json:
        facts: dict[str, Any] = {
            "study": file.study,
            "n_slots": n_slots,
            "methods": [asdict(one) for one in held],
            "predictions": [asdict(one) for one in predicted],
            "speed": asdict(machine.speed),
            "cost": asdict(found),
            "memory_bytes_per_slot": machine.memory / machine.sharing,
            "measured_on": machine.where,
        }
        print_json(facts)
        return
    for note in (*notes_on(file, work.n_training), note_on_hours(file, found.trials.guess)):
        if note is not None:
            complain(note)
    console = Terminal()
    console.print(_space_table(held))
    console.print(_legend(file, max_params), style="dim")
    console.print(
        _cost_table(file, found, machine, _epochs(planning.seconds_by_method(predicted), {report.study for report in told}))
    )


@dataclass(frozen=True)
class _Machine:
    """The machine of the trials.

    Attributes:
        speed: Measured speed.
        seconds: Duration of the measurement, including imports.
        n_slots: Number of trials at once.
        gpus: GPUs of a trial; `auto` counts as a full one if there is one, since the number that fits on it is shown separately.
        memory: Bytes of memory of the machine, or of its GPUs if trials use them.
        sharing: Number of trials at once on that machine.
        where: Name of the machine.
    """

    speed: Speed
    seconds: float
    n_slots: int
    gpus: float
    memory: float
    sharing: int
    where: str


class _Told:
    """The progress of the plan, on standard error: a line when something begins, and another one every few seconds."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._what, self._last = quiet, "", 0.0

    def __call__(self, line: str) -> None:
        """Print a line."""
        if not self._quiet:
            complain(line)

    def progress(self, what: str, done: int, of: int) -> None:
        """Print the progress of one thing, unless it was printed just now."""
        if what != self._what or time.perf_counter() - self._last > _EVERY:
            self._what, self._last = what, time.perf_counter()
            self(f"{what}: {done} of {of}")

    def measured(self, done: int, of: int, method: str) -> None:
        """Print the progress of the measurement of this machine."""
        if method:
            self(f"measuring this machine: {done} of {of}, a few steps of {method}")


def _measured_here(file: StudyFile, sizes: Sizes, slots: int | None, say: _Told) -> _Machine:
    """Measure this machine, which would run as many trials at once as fit on its cores, memory and GPUs."""
    from cluster.health import gpu_memory
    from search.config import trial_resources
    from search.workflows import preflight
    from trainables import measure_speed
    from trainables.costs.memory import private_bytes

    resources, told, worker = file.resources, gpu_memory(), file.worker()
    gpus = float(bool(told)) if resources.gpus_per_trial == "auto" else resources.gpus_per_trial
    needed = preflight.bytes_needed(file, sizes, process_bytes=private_bytes(), gpus=gpus)
    begun = time.perf_counter()
    speed = measure_speed(worker["backbone"], worker["recipe"], say.measured)
    took = time.perf_counter() - begun
    n_slots = max(1, len(os.sched_getaffinity(0)) // resources.cpus_per_trial)
    if gpus > 0:
        n_slots = min(n_slots, int(max(1, len(told)) / gpus))
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    room = int(_FOR_WORKERS * memory)
    reserved = resources.of_a_trial(trial_resources.reserved_memory(needed, most=room))["memory_per_trial"]
    n_slots = min(n_slots, max(1, room // reserved)) if reserved else n_slots
    memory = _bytes_of(told) if gpus > 0 and told else memory
    note_on_slots(slots, n_slots, "this machine", say)
    return _Machine(speed, took, slots or n_slots, gpus, memory, slots or n_slots, "this machine")


def _measured_there(file: StudyFile, sizes: Sizes, slots: int | None, say: _Told) -> _Machine:
    """Measure a node of the joined cluster with the resources of a trial.

    Raises:
        ValueError: If no node fits, or none was started in time.
    """
    from cluster import capacity, connect
    from cluster.health import gpu_memory
    from cluster.nodes import autoscales, name_and_memory, on_each
    from search.config import trial_resources
    from search.workflows import preflight
    from trainables import measure_speed
    from trainables.costs.memory import private_bytes

    worker = file.worker()
    with connect.connected():
        gpus = capacity.gpus_of(file.resources.gpus_per_trial, file.resources.accelerator_type)
        needed = preflight.bytes_needed(file, sizes, process_bytes=private_bytes(), gpus=gpus)
        takes = {**file.resources.of_a_trial(None), "gpus_per_trial": gpus}
        reserved = trial_resources.reserved_memory(needed, most=connect.largest_memory(**takes))
        takes["memory_per_trial"] = file.resources.of_a_trial(reserved)["memory_per_trial"]
        say("measuring a node for trials")
        arguments = worker["backbone"], worker["recipe"]
        found = capacity.in_a_slot(measure_speed, *arguments, takes=takes, say=say, patience=_PATIENCE)
        n_slots = slots or capacity.FreeSlots(takes).at_most
        if not autoscales():
            note_on_slots(slots, capacity.FreeSlots(takes).at_most, "the cluster", say)
        sharing = connect.slots(**takes, node=found.node)
        name, memory = name_and_memory(found.node)
        told = on_each(gpu_memory, with_gpus=True).get(name, []) if gpus > 0 else []
    if told and not isinstance(told, str):
        memory = _bytes_of(told)
    return _Machine(found.value, found.seconds, n_slots, gpus, memory, sharing, f"node {name}")


def note_on_slots(slots: int | None, fits: int, where: str, say: Callable[[str], None]) -> None:
    """Say that more trials at once are planned than fit."""
    if slots is not None and slots > fits:
        say(
            f"--slots {slots}: {where} has room for {fits} trial{'' if fits == 1 else 's'} at once; the times are those of a "
            "larger one of the same speed"
        )


def _bytes_of(gpus: Sequence[str]) -> float:
    """Return the total memory of GPUs, from the output of `cluster.health.gpu_memory`."""
    return sum(float(line.split(",")[1].split()[0]) * 2**20 for line in gpus)


def _space_table(held: Sequence[Holding]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method")
    limits = list(held[0].keeps) if len(held[0].keeps) > 1 else []  # a single limit equals the column "allowed"
    for name in ("configurations", "smallest", "median", "largest", *limits, "allowed"):
        table.add_column(name, justify="right")
    table.add_column("small to large")
    decades = [len(str(size)) for one in held for size in one.sizes] or [1]
    for one in held:
        count = "endless" if one.n_configs is None else f"{one.n_configs:,}"
        three = (one.sizes[0], one.sizes[len(one.sizes) // 2], one.sizes[-1]) if one.sizes else ()
        sizes = [f"{size:,}" for size in three] or ["-"] * 3
        shares = [f"{share:.0%}" for share in (*(one.keeps[key] for key in limits), one.feasible)]
        table.add_row(one.method, count, *sizes, *shares, _histogram(one.sizes, min(decades), max(decades)))
    return table


def _legend(file: StudyFile, max_params: int) -> str:
    """Explain the table's columns, and name the limits that cannot be checked before training."""
    from search.costs import KNOWN

    limits = {"adapter_params": float(max_params), **file.budget.limits}
    known = [f"{key} at most {limit:,.6g}" for key, limit in limits.items() if key in KNOWN]
    text = "adapter parameters of uniform draws, one bar for each third of a decade;\nallowed: valid, and " + ", ".join(known)
    if later := [f"{key} ({limit:,.6g})" for key, limit in limits.items() if key not in KNOWN]:
        text += f"\nnot known before training: {', '.join(later)}"
    return text + "\n"


def _histogram(sizes: Sequence[int], first: int, last: int) -> str:
    """Draw bars over thirds of decades, from the digits of the smallest size of all methods to those of the largest."""
    import math

    counts = [0] * (3 * (last - first + 1))
    for size in sizes:
        counts[min(int(3 * (math.log10(max(size, 1)) - (first - 1))), len(counts) - 1)] += 1
    most = max(counts, default=0) or 1
    return "".join(_BARS[-(-8 * count // most)] for count in counts)


def _cost_table(file: StudyFile, found: Cost, machine: _Machine, epoch: str) -> Table:
    table = Table.grid(padding=(0, 2))
    memory = machine.memory
    fits = int(memory // found.memory_bytes) if found.memory_bytes else machine.sharing
    gpu_hours = found.slot_hours.guess * machine.gpus
    rows = {
        "trials": f"{_range(found.trials, '{:,.0f}')}, {machine.n_slots} at a time",
        "epochs": _range(found.epochs, "{:,.0f}"),
        "an epoch": epoch,
        "slot hours": _range(found.slot_hours, "{:,.2f}") + (f"; GPU hours {gpu_hours:,.2f}" if gpu_hours else ""),
        "by the clock": f"{_duration(found.hours.guess)}, from {_duration(found.hours.low)} to {_duration(found.hours.high)}",
        "memory": f"{found.memory_bytes / 2**30:.2f} GiB per trial; {fits:,} fit into {memory / 2**30:,.0f} GiB",
        "measured on": machine.where,
    }
    if file.budget.max_hours is not None:
        rows["limit"] = f"budget.max_hours = {file.budget.max_hours:g}"
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), value)
    return table


def _epochs(seconds: Mapping[str, Sequence[float]], studies: Collection[str]) -> str:
    """Describe the predicted epochs: the mean of the methods, the fastest and the slowest, and whose trials corrected them."""
    from search.config.study_file import ANCHOR

    means = {method: statistics.mean(values) / 3600 for method, values in seconds.items() if method != ANCHOR or len(seconds) == 1}
    fast, slow = min(means, key=lambda method: means[method]), max(means, key=lambda method: means[method])
    text = (
        f"{_duration(statistics.mean(means.values()))}, from {_duration(means[fast])} ({fast}) to {_duration(means[slow])} ({slow})"
    )
    return text + (f"; corrected by trials of {', '.join(sorted(studies))}" if studies else "")


def _range(found: Range, form: str) -> str:
    if found.low == found.high:
        return form.format(found.guess)
    return f"{form.format(found.guess)}, from {form.format(found.low)} to {form.format(found.high)}"


def _duration(hours: float) -> str:
    if hours < 1 / 30:
        return f"{3600 * hours:.3g} s" if hours < 1 / 360 else f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.1f} min"
    return f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"
