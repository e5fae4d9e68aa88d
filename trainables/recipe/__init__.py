"""How all methods train alike: optimiser, schedule, precision, and one step."""
