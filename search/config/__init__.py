"""The study file: its sections, their checks, and the resources of a trial."""
