"""The view of a study in MLflow, which can be rebuilt from the ledger at any time."""
