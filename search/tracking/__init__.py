"""The study shown in MLflow: a view of the ledger that can be rebuilt at any time."""
