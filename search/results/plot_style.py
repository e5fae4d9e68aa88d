"""The style of methods and sizes, the same in every plot: colours, markers, and the size axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle

from search.results.arrow_tables import UNITS
from search.trial import PARAMETERS, Trial

# Okabe and Ito's palette, distinguishable with every kind of colour vision; shape and colour are redundant.
_STYLES = {
    "head_only": ("#000000", "D"),
    "lora": ("#0072B2", "o"),
    "arc": ("#D55E00", "^"),
    "lily": ("#009E73", "s"),
}
_MORE_STYLES = [
    (c, m) for m in ("v", "P", "X", "*", "h") for c in ("#CC79A7", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73")
]
PARAMS_IN_WORDS = "trainable adapter parameters, head not counted"
INK, FAINT = "#222222", "#8a8a8a"


def styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return (colour, matplotlib marker) by method: fixed for the packaged methods, the rest of the palette in turn for others."""
    spare = cycle(_MORE_STYLES)
    every = list(dict.fromkeys(sorted(methods)))
    order = [m for m in _STYLES if m in every] + [m for m in every if m not in _STYLES]
    return {method: _STYLES.get(method) or next(spare) for method in order}


@dataclass(frozen=True)
class SizeAxis:
    """The axis of sizes: positions are log10(1 + params), with zero at most half a decade left of the next size.

    The empty decades between head-only and the smallest adapter are left out, which breaks the axis. A cost that is not a number of
    parameters has its value as its position.

    Attributes:
        zero: Position of everything left of the break; -inf if there is no trial of size 0.
        left: First position shown.
        right: Last position shown.
        ticks: Labelled ticks, each as (position, label).
        minor: Positions of the ticks without a label.
        label: Label of the axis.
        linear: True if positions are the values themselves.
    """

    zero: float
    left: float
    right: float
    ticks: tuple[tuple[float, str], ...]
    minor: tuple[float, ...]
    label: str = PARAMS_IN_WORDS
    linear: bool = False

    @classmethod
    def of(cls, trials: Iterable[Trial], reference_point: tuple[float, float] | None) -> SizeAxis:
        """Return the axis that contains these trials; it ends at the reference point's size if there is one."""
        known = list(trials)
        every = [t.size for t in known]
        against = known[0].against if known else "adapter_params"
        if against not in PARAMETERS:
            left, right = min(every), max([*every, *(reference_point or ())[1:]])
            right = right if right > left else left + (left or 1.0)
            even = [left + (right - left) * part / 5 for part in range(6)]
            ticks = tuple((at, f"{at:.4g}") for at in even)
            return cls(-math.inf, left, right, ticks, (), f"{against}, {UNITS[against]}", linear=True)
        sizes = [n for n in every if n]
        smallest = _log(min(sizes, default=1))
        largest = _log(reference_point[1] if reference_point else max(sizes, default=100))
        has_zero = 0 in every or not sizes
        zero = max(0.0, smallest - 0.5) if has_zero and sizes else 0.0 if has_zero else -math.inf
        left = zero if has_zero else smallest
        right = max(largest, left + 1.0)
        first = left + (0.3 if zero > 0 else 0.1)  # no labels left of the break
        steps = (1, 3) if right - left <= 3.2 else (1,)
        labelled = [d * 10**k for k in range(9) for d in steps if first < _log(d * 10**k) <= right + 0.01]
        marks = [(max(_log(n), zero), _short(n)) for n in ([0, *labelled] if has_zero else labelled)]
        unlabelled = [_log(d * 10**k) for k in range(9) for d in range(2, 10)]
        return cls(
            zero,
            left,
            right,
            tuple(marks),
            tuple(p for p in unlabelled if first < p <= right),
            PARAMS_IN_WORDS if against == "adapter_params" else against,
        )

    def __call__(self, size: float) -> float:
        """Return the position of a size."""
        return size if self.linear else max(_log(size), self.zero)


def _log(params: float) -> float:
    return math.log10(1.0 + params)


def _short(n: int) -> str:
    return f"{n // 10**6}M" if n >= 10**6 else f"{n // 1000}k" if n >= 1000 else str(n)
