"""The choice of a back end, in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from search.backends.base import BackEnd
from search.errors import RequestError


def _ray(n_cpus: int | None, n_slots: int | None) -> BackEnd:
    from search.backends.ray_back_end import RayBackEnd

    return RayBackEnd(n_cpus=n_cpus, n_slots=n_slots)


def _in_process(n_cpus: int | None, n_slots: int | None) -> BackEnd:
    from search.backends.in_process import InProcessBackEnd

    return InProcessBackEnd()


BACK_ENDS: Mapping[str, Callable[[int | None, int | None], BackEnd]] = {"ray": _ray, "in-process": _in_process}


def make_back_end(name: str, *, n_cpus: int | None = None, n_slots: int | None = None) -> BackEnd:
    """Create the back end that a command names.

    Args:
        name: Name of the back end: `ray` (warm actors, as many trials at once as fit) or `in-process` (one after the other, in this
            process).
        n_cpus: Cores that an embedded Ray may use; None for all.
        n_slots: Maximum number of trials at once; None for as many as fit.

    Raises:
        RequestError: If there is no back end of that name.
    """
    if name not in BACK_ENDS:
        raise RequestError(f"--back-end {name}: no such back end; use {' or '.join(BACK_ENDS)}")
    return BACK_ENDS[name](n_cpus, n_slots)
