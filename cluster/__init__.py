"""The Ray cluster of a search: connecting to it, its capacity, its nodes, and its jobs."""
