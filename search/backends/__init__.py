"""The back ends that run a study's trials: Ray Tune, this process, or a simulated cluster on a virtual clock."""
