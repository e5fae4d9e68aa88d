"""The style of methods and sizes, the same in every plot: colours, markers, and the size axis."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from search.results.arrow_tables import UNITS
from search.trial import PARAMETERS, Trial

# Okabe and Ito's palette, distinguishable with every kind of colour vision; shape and colour are redundant.
_BLACK, _BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
_STYLES = {  # anchors are black
    "head_only": (_BLACK, "D"),
    "layer_norm": (_BLACK, "o"),
    "bitfit": (_BLACK, "s"),
    "full": (_BLACK, "^"),
    "lora": (_BLUE, "o"),
    "arc": (_VERMILION, "^"),
    "lily": (_GREEN, "s"),
    "serial_lora": (_ORANGE, "P"),
    "heart_lora": (_PINK, "X"),
    "householder": (_SKY, "*"),
    "snell": (_BLUE, "h"),
    "clora": (_VERMILION, "<"),
    "fact": (_GREEN, ">"),
    "adapter": (_ORANGE, "o"),
    "adaptformer": (_PINK, "s"),
    "randlora": (_SKY, "^"),
    "ssf": (_BLUE, "P"),
    "difffit": (_VERMILION, "X"),
    "rep_adapter": (_GREEN, "*"),
    "adapter_plus": (_ORANGE, "h"),
    "convpass": (_PINK, "<"),
    "vpt": (_SKY, ">"),
}
MARKERS = ("o", "s", "^", "<", ">", "P", "X", "*", "h", "D")  # a triangle that points down means "further down"
_SPARE = [(c, m) for m in MARKERS for c in (_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY) if (c, m) not in _STYLES.values()]
PARAMS_IN_WORDS = "trainable adapter parameters, head not counted"
INK, FAINT = "#222222", "#8a8a8a"


def height(trial: Trial) -> float:
    """Return the position of a trial's first objective on an axis on which better is further up: losses are negative."""
    value = trial.metric.shown(trial.quality)
    return value if trial.metric.larger_is_better else -value


def styles(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return (colour, matplotlib marker) by method, no two alike.

    The packaged methods have fixed ones. Another method (of PEFT, of one's own) has the spare one that its name chooses, or the
    next free one.
    """
    every = sorted(set(methods))
    found = {method: style for method, style in _STYLES.items() if method in every}
    for method in every:
        if method not in found:
            first = zlib.crc32(method.encode()) % len(_SPARE)
            free = [style for style in _SPARE[first:] + _SPARE[:first] if style not in found.values()]
            found[method] = free[0] if free else _SPARE[first]
    return found


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
