"""`paretune plan`: the size of a study's space, and the cost of the study."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
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
    from spaces import Config
    from trainables.training.probe import Probe

app = typer.Typer()
_FOR_WORKERS = 0.7  # fraction of a machine's memory for workers; Ray keeps the rest for its object store
_ANSWER_WITHIN = 30.0  # seconds for all measurements; a slow machine gets fewer images
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
    """Show the size of the space and the cost of the study, from a few batches of each method on this machine or a node."""
    from search.config import loading
    from search.config.prefix_cache import prefix_fact
    from search.errors import RequestError
    from search.workflows import plan as planning
    from trainables import measure

    begun = time.perf_counter()
    file = loading.load(study, overrides or ())
    if address is not None:
        words = [*(["--slots", str(slots)] if slots else []), *(["--json"] if as_json else [])]
        raise typer.Exit(ask_about(file, address, "plan", words, pip=pip, unprotected=unprotected))
    worker = file.worker()
    if not as_json:  # a job's output is one stream
        complain(f"counting the sizes of {len(file.methods)} methods")
    try:
        sizes = measure(worker["backbone"], worker["data"])
        worker["recipe"] |= prefix_fact(file, sizes).as_recipe()
        max_params = file.budget.max_params or sizes.backbone_params
        held = planning.holdings(file, sizes, max_params)
        configs, took = planning.to_probe(file, sizes, max_params), time.perf_counter() - begun
        if "RAY_ADDRESS" in os.environ:
            measured = _measured_there(file, worker, sizes, configs, slots, say=(lambda waiting: None) if as_json else complain)
        else:
            measured = _measured_here(file, worker, sizes, configs, slots, on_done=_Told(quiet=as_json))
    except ValueError as error:
        raise RequestError(str(error)) from error
    n_slots = measured.n_slots
    starts = (took + measured.seconds) / 2
    found = planning.cost(
        file, measured.probes, planning.epochs(file), n_slots=n_slots, start_seconds=starts, computed_bytes=measured.needed
    )
    if as_json:
        facts: dict[str, Any] = {
            "study": file.study,
            "n_slots": n_slots,
            "methods": [asdict(one) for one in held],
            "probes": [asdict(one) for one in measured.probes],
            "cost": asdict(found),
            "memory_bytes_per_slot": measured.memory / measured.sharing,
            "measured_on": measured.where,
        }
        print_json(facts)
        return
    console = Terminal()
    console.print(_space_table(held))
    console.print(_legend(file, max_params), style="dim")
    console.print(_cost_table(file, found, measured))


@dataclass(frozen=True)
class _Measured:
    """The measurements, and their machine.

    Attributes:
        probes: Measurement of each configuration.
        seconds: Duration of the measurements, including imports.
        n_slots: Number of trials at once.
        gpus: GPUs of a trial; `auto` counts as a full one if there is one, since the number that fits on it is shown separately.
        memory: Bytes of memory of the machine, or of its GPUs if trials use them.
        sharing: Number of trials at once on that machine.
        where: Name of the machine.
        needed: Computed memory of a trial.
    """

    probes: Sequence[Probe]
    seconds: float
    n_slots: int
    gpus: float
    memory: float
    sharing: int
    where: str
    needed: float


class _Told:
    """The progress of the measurements, on standard error: one line for each method, with the time that is left."""

    def __init__(self, *, quiet: bool) -> None:
        self._begun, self._method, self._quiet = time.perf_counter(), "", quiet

    def __call__(self, done: int, of: int, method: str) -> None:
        if self._quiet:
            return
        if done == 0:
            complain(f"measuring {of} configurations on this machine")
        elif method != self._method or done == of:
            self._method = method
            left = (time.perf_counter() - self._begun) / done * (of - done)
            complain(f"measured {done} of {of} ({method}), about {left:.0f} s left")


def _measured_here(
    file: StudyFile,
    worker: Mapping[str, Any],
    sizes: Sizes,
    configs: Sequence[Config],
    slots: int | None,
    *,
    on_done: Callable[[int, int, str], None],
) -> _Measured:
    """Measure on this machine, which would run as many trials at once as fit on its cores, memory and GPUs."""
    from cluster.health import gpu_memory
    from search.config import trial_resources
    from search.workflows import preflight
    from trainables import measure_epochs
    from trainables.costs.memory import private_bytes

    resources, told = file.resources, gpu_memory()
    gpus = float(bool(told)) if resources.gpus_per_trial == "auto" else resources.gpus_per_trial
    needed = preflight.bytes_needed(file, sizes, process_bytes=private_bytes(), gpus=gpus)
    begun = time.perf_counter()
    probes = list(measure_epochs(**worker, configs=configs, patience=_ANSWER_WITHIN, on_done=on_done))
    took = time.perf_counter() - begun
    n_slots = max(1, len(os.sched_getaffinity(0)) // resources.cpus_per_trial)
    if gpus > 0:
        n_slots = min(n_slots, int(max(1, len(told)) / gpus))
    memory = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    room = int(_FOR_WORKERS * memory)
    reserved = resources.of_a_trial(trial_resources.reserved_memory(needed, most=room))["memory_per_trial"]
    n_slots = min(n_slots, max(1, room // reserved)) if reserved else n_slots
    memory = _bytes_of(told) if gpus > 0 and told else memory
    return _Measured(probes, took, slots or n_slots, gpus, memory, slots or n_slots, "this machine", needed)


def _measured_there(
    file: StudyFile,
    worker: Mapping[str, Any],
    sizes: Sizes,
    configs: Sequence[Config],
    slots: int | None,
    *,
    say: Callable[[str], object],
) -> _Measured:
    """Measure on a node of the joined cluster with the resources of a trial; `say` receives messages about waiting.

    Raises:
        ValueError: If no node fits, or none was started in time.
    """
    from cluster import capacity, connect
    from cluster.health import gpu_memory
    from cluster.nodes import name_and_memory, on_each
    from search.config import trial_resources
    from search.workflows import preflight
    from trainables import probed_epochs
    from trainables.costs.memory import private_bytes

    with connect.connected():
        gpus = capacity.gpus_of(file.resources.gpus_per_trial, file.resources.accelerator_type)
        needed = preflight.bytes_needed(file, sizes, process_bytes=private_bytes(), gpus=gpus)
        takes = {**file.resources.of_a_trial(None), "gpus_per_trial": gpus}
        reserved = trial_resources.reserved_memory(needed, most=connect.largest_memory(**takes))
        takes["memory_per_trial"] = file.resources.of_a_trial(reserved)["memory_per_trial"]
        found = capacity.in_a_slot(probed_epochs, worker, configs, _ANSWER_WITHIN, takes=takes, say=say, patience=_PATIENCE)
        n_slots = slots or capacity.FreeSlots(takes).at_most
        sharing = connect.slots(**takes, node=found.node)
        name, memory = name_and_memory(found.node)
        told = on_each(gpu_memory, with_gpus=True).get(name, []) if gpus > 0 else []
    if told and not isinstance(told, str):
        memory = _bytes_of(told)
    return _Measured(found.value, found.seconds, n_slots, gpus, memory, sharing, f"node {name}", needed)


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


def _cost_table(file: StudyFile, found: Cost, measured: _Measured) -> Table:
    table = Table.grid(padding=(0, 2))
    memory = measured.memory
    fits = int(memory // found.memory_bytes) if found.memory_bytes else measured.sharing
    gpu_hours = found.slot_hours.guess * measured.gpus
    rows = {
        "trials": f"{file.budget.n_trials:,}, {measured.n_slots} at a time",
        "epochs": _range(found.epochs, "{:,.0f}"),
        "slot hours": _range(found.slot_hours, "{:,.2f}") + (f"; GPU hours {gpu_hours:,.2f}" if gpu_hours else ""),
        "by the clock": f"{_duration(found.hours.guess)}, from {_duration(found.hours.low)} to {_duration(found.hours.high)}",
        "memory": f"{found.memory_bytes / 2**30:.2f} GiB per trial; {fits:,} fit into {memory / 2**30:,.0f} GiB",
        "measured on": measured.where,
    }
    if file.budget.max_hours is not None:
        rows["limit"] = f"budget.max_hours = {file.budget.max_hours:g}"
    for name, value in rows.items():
        table.add_row(Text(name, style="dim"), value)
    return table


def _range(found: Range, form: str) -> str:
    if found.low == found.high:
        return form.format(found.guess)
    return f"{form.format(found.guess)}, from {form.format(found.low)} to {form.format(found.high)}"


def _duration(hours: float) -> str:
    if hours < 1 / 30:
        return f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.1f} min"
    return f"{hours:,.1f} h" if hours < 48 else f"{hours / 24:,.1f} days"
