"""The training recipe that all methods share: optimiser, schedule, precision, and one step."""
