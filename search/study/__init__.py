"""The study, a state machine with three operations: ask, report, tell. It imports neither torch nor Ray nor MLflow."""
