"""A first study file for a folder of images: methods, image size, epochs and hours that fit the images and the machine.

Everything follows from three laws. A search needs a fair start: a few trials of every method, and as many again that it chooses by
what it has learnt. An image needs no more pixels than it has. And short training sees as many steps as longer training of more
images. What does not fit into the hours is given up in this order: epochs down to half, pixels down to half a side, methods, and
then all of these as far as they can go.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from search.samplers.auto import EXPECTED
from search.samplers.start import n_start

METHODS: Final = ("lora", "arc", "lily", "adaptformer", "fact", "ssf", "convpass", "householder")  # the order in which they stay
FEWEST_METHODS: Final = 3
HOURS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # the longest is a night
STEPS: Final = 3000  # of a trial; the papers' 100 epochs of 1,000 images in batches of 32
BATCH: Final = 32
EPOCHS: Final = (8, 100)  # fewest and most
ENOUGH: Final = 2.0  # fair starts that the hours should hold


@dataclass(frozen=True)
class Choice:
    """The size of a search, as a study file states it.

    Attributes:
        methods: Names of the methods.
        img_size: Height and width of the images; None for the backbone's own.
        epochs: Epochs of a trial.
        hours: Hours of the search.
        n_trials: Trials that these hours are expected to hold.
        fits: True if they hold `ENOUGH` fair starts.
    """

    methods: tuple[str, ...]
    img_size: int | None
    epochs: int
    hours: float
    n_trials: int
    fits: bool


def usual_epochs(n_images: int) -> int:
    """Return the epochs of about `STEPS` steps, within `EPOCHS`."""
    fewest, most = EPOCHS
    return max(fewest, min(most, round(STEPS * BATCH / max(1, n_images))))


def image_sizes(own: int, patch: int, side: int) -> list[int]:
    """Return the image sizes that are worth considering, the largest first: multiples of the patch that images of a side can fill.

    Args:
        own: The backbone's own size.
        patch: Size of a patch.
        side: Median of the images' shorter sides; 0 if it is unknown.
    """
    grids = (own // patch, 28, 24, 20, 16, 14, 12, 10, 8, 6, 4)
    sizes = sorted({grid * patch for grid in grids if grid * patch <= own}, reverse=True)
    filled = [size for size in sizes if size - patch <= (side or own)]
    return filled or sizes[-1:]


def choose(
    methods: Sequence[str],
    sizes: Sequence[int | None],
    n_images: int,
    trial_seconds: Callable[[str, int | None], tuple[float, float]],
    *,
    n_slots: int,
    hours: float | None,
) -> Choice:
    """Choose what fits into the hours; without hours, the fewest of `HOURS` into which nothing has to be given up.

    Args:
        methods: Methods that fit the backbone, the first ones stay longest.
        sizes: Image sizes, the largest first.
        n_images: Number of training images.
        trial_seconds: Function from method and image size to the seconds of a trial's start and those of an epoch.
        n_slots: Trials at a time.
        hours: Hours that the user gives; None to choose them.
    """

    def n_trials(chosen: Sequence[str], size: int | None, epochs: int, given: float) -> int:
        costs = [trial_seconds(method, size) for method in chosen]
        each = sum(start + EXPECTED * epochs * epoch for start, epoch in costs) / len(costs)
        return int(given * 3600 * n_slots / each)

    whole = usual_epochs(n_images)
    for given in HOURS if hours is None else (hours,):
        for chosen, size, epochs in _concessions(methods, sizes, whole, any_of_them=hours is not None or given == HOURS[-1]):
            if (n := n_trials(chosen, size, epochs, given)) >= ENOUGH * n_start(len(chosen)):
                return Choice(tuple(chosen), size, epochs, given, n, fits=True)
    least = methods[:FEWEST_METHODS], sizes[-1], max(EPOCHS[0], whole // 4)
    given = HOURS[-1] if hours is None else hours
    return Choice(tuple(least[0]), least[1], least[2], given, n_trials(*least, given), fits=False)


def hours_needed(choice: Choice) -> float:
    """Return the hours into which the fair starts of a choice that does not fit would fit."""
    return choice.hours * ENOUGH * n_start(len(choice.methods)) / max(1, choice.n_trials)


def _concessions(
    methods: Sequence[str], sizes: Sequence[int | None], epochs: int, *, any_of_them: bool
) -> Iterator[tuple[Sequence[str], int | None, int]]:
    """Yield what might be searched, from everything to the least."""
    halves = [size for size in sizes if size is None or sizes[0] is None or 2 * size >= sizes[0]]
    shorter = [max(EPOCHS[0], epochs // n) for n in (1, 2)]
    yield methods, sizes[0], epochs
    if not any_of_them:
        return
    counts = sorted({n for n in (len(methods), 6, 4, FEWEST_METHODS) if n <= len(methods)}, reverse=True)
    for n in counts:
        yield from ((methods[:n], size, n_epochs) for size, n_epochs in itertools.product(halves, shorter))
    for size in sizes:
        yield methods[: counts[-1]], size, max(EPOCHS[0], epochs // 4)
