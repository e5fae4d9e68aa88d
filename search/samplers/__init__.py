"""What to try next: random search, Optuna's samplers, and our own model of accuracy."""
