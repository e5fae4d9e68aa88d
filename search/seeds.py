"""One root seed gives every stream of randomness: a draw's seed depends on root, stream and number only."""

from __future__ import annotations

import hashlib


def seed_for(root: int, stream: str, number: int) -> int:
    """A seed in [0, 2**31) for draw `number` of a stream (`ask`, `trial`); the same on every machine and Python version."""
    digest = hashlib.blake2b(f"{root}/{stream}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % 2**31
