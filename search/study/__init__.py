"""The study, a state machine with three verbs: ask, report, tell. No torch, no Ray, no MLflow."""
