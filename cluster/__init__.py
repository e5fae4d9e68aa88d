"""Where a search runs: connecting to Ray and what it offers."""
