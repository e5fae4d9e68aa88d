"""One trial: its epochs, its checkpoint, and the random state that makes it repeatable."""
