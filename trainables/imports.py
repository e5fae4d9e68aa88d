"""A context manager that speeds up the import of large libraries."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

from trainables.torch_internals import leave_out_compiler


@contextmanager
def large_imports() -> Iterator[None]:
    """Import without garbage collection and without torch's compiler; exempt all objects made inside from later collections.

    Importing torch, timm and Ray creates about a million permanent objects. Repeated collections take a third of the import time,
    and every later full collection that scans these objects would add half a second to a training step.
    """
    leave_out_compiler()
    if not gc.isenabled():  # disabled by an outer block or by the user
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # triton complains about objects that are still frozen when the interpreter exits
        gc.enable()
