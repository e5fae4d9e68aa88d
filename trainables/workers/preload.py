"""The imports of a Ray Tune worker, as a module that a process can load before it gets any work."""

from trainables.imports import large_imports

with large_imports():
    from trainables.training import trial
    from trainables.workers import ray_tune

__all__ = ["ray_tune", "trial"]
