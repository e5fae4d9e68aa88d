"""The random seeds of a study, all derived from one root seed: a draw's seed depends only on root, stream and number."""

from __future__ import annotations

import hashlib


def seed_for(root: int, stream: str, number: int) -> int:
    """Return a seed in [0, 2**31) for draw `number` of a stream (`ask`, `trial`), equal on every machine and Python version."""
    digest = hashlib.blake2b(f"{root}/{stream}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31
