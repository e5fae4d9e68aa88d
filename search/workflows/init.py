"""The workflow of `paretune init`: look at the images, the backbone and the machine, and write a study file with the reasons."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import spaces
from search.config import loading
from search.config.yaml_text import parse
from search.errors import RequestError
from search.names import is_study_name
from search.samplers.start import n_start
from search.workflows import busy, first_file
from search.workflows.first_file import Choice

if TYPE_CHECKING:
    from trainables.costs.backbone_facts import BackboneFacts
    from trainables.costs.speed import Speed
    from trainables.costs.work import EpochWork
    from trainables.data.first_look import FirstLook

SMALL: Final = "vit_small_patch14_dinov2.lvd142m"  # on a machine without a GPU
LARGE: Final = "vit_base_patch14_dinov2.lvd142m"
_FOR_WORKERS: Final = 0.7  # fraction of the machine's memory
_PART: Final = 0.02  # of the backbone's parameters, the largest adapter, but at least so many:
_LEAST: Final = 50_000
_SECONDS_OF_A_START: Final = 1.0  # beyond what is measured: the decision, the checkpoint, the report


@dataclass(frozen=True)
class Written:
    """A study file that fits.

    Attributes:
        text: Content of the file.
        look: Facts about the images.
        choice: Methods, image size, epochs and hours.
    """

    text: str
    look: FirstLook
    choice: Choice

    @property
    def hours_needed(self) -> float:
        """The hours that would hold what was chosen, if it does not fit."""
        return first_file.hours_needed(self.choice)


def init(path: Path, *, backbone: str | None, weights: Path | None, hours: float | None, say: Callable[[str], None]) -> Written:
    """Return the study file for a folder of images, after a few steps of training on noise.

    Args:
        path: Folder of the images, or a Parquet file.
        backbone: Name in timm; None for one that fits the machine.
        weights: File or folder of its weights; None for its own.
        hours: Hours of the search; None to choose them.
        say: Function that prints a line about what is done.

    Raises:
        RequestError: If there are no images, or no backbone of that name; the message says what was expected.
    """
    from cluster.health import gpu_memory
    from trainables import measure, measure_speed
    from trainables.costs.backbone_facts import backbone_facts
    from trainables.costs.memory import private_bytes
    from trainables.data.first_look import FRACTIONS, look
    from trainables.imports import large_imports

    try:
        say(f"looking at the images below {path}")
        seen = look(path)
        images = f"{sum(seen.n_images.values()):,} images of {seen.n_classes:,} classes, about {seen.side} pixels"
        n_gpus, n_cores = len(gpu_memory()), len(os.sched_getaffinity(0))
        with large_imports():
            name = backbone or (LARGE if n_gpus else SMALL)
            say(f"{images}; building {name} without its weights")
            network = backbone_facts(name, None if weights is None else str(weights), first_file.METHODS)
            sizes: list[int | None] = [None]
            if network.patch is not None:
                sizes = list(first_file.image_sizes(network.own_size, network.patch, seen.side))
            data = {"kind": seen.kind, "path": str(path), **FRACTIONS}
            counted = measure({"name": name, "img_size": sizes[0]}, {"kind": "none", "n_classes": seen.n_classes})
            bytes_of_a_trial = counted.training_bytes({"method": "lora"}, first_file.BATCH) + private_bytes()
            memory = _FOR_WORKERS * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            n_slots = n_gpus or max(1, min(n_cores, int(memory // bytes_of_a_trial)))
            middle = {"name": name, "img_size": sizes[len(sizes) // 2]}
            if (others := busy.watch()) is not None and others.disturbs:
                say(f"the machine is busy ({others}): the hours are what a trial takes here now, and fewer when it is quiet")
            say("measuring this machine with a few steps of training on noise")
            speed = measure_speed(middle, {"n_threads": 1})
            trial_seconds = _seconds(name, data, speed, say)
            n_train = seen.n_images["train"]
            choice = first_file.choose(network.methods, sizes, n_train, trial_seconds, n_slots=n_slots, hours=hours)
    except ValueError as error:
        raise RequestError(str(error)) from error
    chosen = "as asked for" if backbone else "for a machine with a GPU" if n_gpus else "for a machine without a GPU"
    text = _text(path, seen, network, choice, chosen=chosen, n_slots=n_slots, asked=hours is not None)
    loading.check(_parsed(text))  # what is written is a study file
    return Written(text, seen, choice)


def _seconds(
    name: str, data: dict[str, Any], speed: Speed, say: Callable[[str], None]
) -> Callable[[str, int | None], tuple[float, float]]:
    from trainables import count_epochs

    @cache
    def work(size: int | None) -> EpochWork:
        say("counting the work of an epoch" + (f" at {size} pixels" if size is not None else ""))
        return count_epochs({"name": name, "img_size": size}, data, {"n_threads": 1})

    @cache
    def seconds(method: str, size: int | None) -> tuple[float, float]:
        default = {knob.key: knob.default for knob in spaces.space_of(method).knobs}
        return _SECONDS_OF_A_START + speed.setup_seconds, speed.seconds(work(size).epoch({"method": method, **default}))

    return seconds


def _parsed(text: str) -> dict[str, Any]:
    return dict(parse(text, "study")[0])


def study_name(path: Path) -> str:
    """Return the name of a study of a folder: the folder's, with every other character replaced."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", path.resolve().name.removesuffix(".parquet")).strip("-_")[:64]
    return name if is_study_name(name) else "my-study"


def _text(
    path: Path,
    seen: FirstLook,
    network: BackboneFacts,
    choice: Choice,
    *,
    chosen: str,
    n_slots: int,
    asked: bool,
) -> str:
    n_train, fair = seen.n_images["train"], n_start(len(choice.methods))
    size, own = choice.img_size, network.own_size
    pixels = f"{size} of its own {own} pixels" if size is not None and size != own else f"its own {own} pixels"
    backbone = [f"name: {network.name}", *([f"weights: {_quoted(network.weights)}"] if network.weights is not None else [])]
    backbone += [f"img_size: {size}"] if size is not None and size != own else []
    images = ", ".join(f"{n:,} {split}" for split, n in seen.n_images.items())
    data = [f"kind: {seen.kind}", f"path: {_quoted(str(path))}"]
    data += ["test_fraction: 0.2"] if seen.draws_test else []
    data += ["on_problem: skip"] if seen.problems else []
    most = max(_LEAST, _rounded(_PART * network.n_params))
    hours = "as asked for" if asked else "the fewest that hold this search" if choice.fits else "a night"
    if not choice.fits:
        hours += f", too few to learn from: {first_file.hours_needed(choice):.1f} hours would hold the fair start twice"
    grace = max(2, choice.epochs // 8)
    lines = [
        loading.schema_line(),
        f"# Which adapter is worth training on {path.name}? Written by `paretune init` for this machine.",
        "# Change what you like; `paretune validate` checks it, and `paretune plan` says what it would take.",
        f"study: {study_name(path)}",
        f"backbone: {{{', '.join(backbone)}}}",
        *_comment(
            f"{chosen}; {pixels}, because the images have about {seen.side} and the hours are {choice.hours:g}"
            + (". The first run downloads its weights" if network.is_downloaded else "")
        ),
        f"data: {{{', '.join(data)}}}",
        *_comment(f"{images} images of {seen.n_classes:,} classes; the smallest class has {seen.smallest_class:,} to train"),
        *(_comment("a fifth of the images is a test split, which only `paretune finalize` sees") if seen.draws_test else []),
        *(
            _comment(
                f"{seen.problems:,} of them are left out: broken, without a class or in two splits; `paretune validate` names them"
            )
            if seen.problems
            else []
        ),
        *(["objectives: [val/map, adapter_params]"] if seen.many_labels else []),
        *(_comment("mean average precision, because an image has any number of labels") if seen.many_labels else []),
        f"methods: [{', '.join(choice.methods)}]",
        *_comment(f"{len(choice.methods)} methods have a fair start of {fair} trials together; `paretune methods` lists them all"),
        "budget:",
        f"  max_hours: {choice.hours:g}",
        *_comment(
            f"{hours}; about {choice.n_trials:,} trials, {n_slots} at a time, of which the first {fair} are the fair start", 2
        ),
        f"  epochs: {choice.epochs}",
        *_comment(
            f"{choice.epochs * max(1, n_train // first_file.BATCH):,} steps of {first_file.BATCH} images; {first_file.STEPS:,} are "
            "usual, the hours may allow fewer",
            2,
        ),
        f"  max_params: {most:_}",
        *_comment(f"{most / network.n_params:.0%} of the backbone's {network.n_params:,} parameters", 2),
        f"search: {{rungs: {{grace: {grace}, factor: 3}}}}",
        *_comment(f"a trial that is behind others of its size or smaller after {grace} epochs is stopped"),
    ]
    return "\n".join(lines) + "\n"


def _comment(text: str, indent: int = 0) -> list[str]:
    start = " " * indent + "  # "
    return textwrap.wrap(text, 100, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)  # YAML reads JSON's strings


def _rounded(number: float) -> int:
    """Return a number with one significant digit."""
    unit = int(10 ** (len(str(int(number))) - 1))
    return max(1, round(number / unit)) * unit
