"""Connecting to Ray: an embedded cluster on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def embedded(*, n_cpus: int | None = None) -> Iterator[None]:
    """A private Ray cluster on the loopback interface, without dashboard, that ends with the block.

    Args:
        n_cpus: Cores that it may use; None for all of this machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would try to reach the internet
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's coming default; silences its warning
    ray.init(
        num_cpus=n_cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    try:
        yield
    finally:
        ray.shutdown()


def slots(*, cpus_per_trial: int, gpus_per_trial: float) -> int:
    """How many trials the connected cluster runs at once.

    Raises:
        ValueError: if not even one fits.
    """
    have = ray.cluster_resources()
    n_slots = int(have.get("CPU", 0) // cpus_per_trial)
    if gpus_per_trial > 0:
        n_slots = min(n_slots, int(have.get("GPU", 0) / gpus_per_trial))
    if n_slots < 1:
        raise ValueError(
            f"resources: a trial asks for {cpus_per_trial} CPUs and {gpus_per_trial:g} GPUs, "
            f"the cluster has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}; ask for less"
        )
    return n_slots
