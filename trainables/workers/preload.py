"""What a worker of Ray Tune imports, for one that does so before it is asked for anything."""

from trainables.imports import large_imports

with large_imports():
    from trainables.training import trial
    from trainables.workers import ray_tune

__all__ = ["ray_tune", "trial"]
