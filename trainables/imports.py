"""Importing large libraries."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def large_imports() -> Iterator[None]:
    """No garbage collection inside, and what was made inside is never looked at again.

    Importing torch, timm and Ray makes a million objects that stay. Collecting among them again and again is a third of the time
    of the import, and looking through them at every full collection later on costs a training step half a second.
    """
    if not gc.isenabled():  # an outer block, or the user, has it off
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # triton complains about objects that are left over when the interpreter ends
        gc.enable()
