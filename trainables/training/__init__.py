"""The training of one trial: its epochs, its checkpoint, and the random state that makes it reproducible."""
