"""Head-only (linear probe): the frozen backbone and a new head. The anchor of every front: zero adapter parameters."""

from spaces.space import Space

SPACE = Space("head_only")
