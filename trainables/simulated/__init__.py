"""Trainables that train nothing: surfaces with a known front, and recorded learning curves."""
