"""The study file: its sections, their checks, and what a trial takes of a machine."""
