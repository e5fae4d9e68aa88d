"""What a worker of Ray Tune imports, for one that does so before it is asked for anything."""

from trainables import large_imports

with large_imports():
    from trainables import trial, tune

__all__ = ["trial", "tune"]
