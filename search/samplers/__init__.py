"""The choice of the next configuration: random search, Optuna's samplers, and our own model of accuracy."""
