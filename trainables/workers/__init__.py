"""Entry points of other processes: Ray Tune's actors, retraining, and the modules that a worker imports first."""
