"""A study read back, running or finished: its front, tables, plots and recommendation."""
