"""The results of a study, running or finished: its front, tables, plots and recommendation."""
