"""The export of an adapter: a trial's newest checkpoint without its optimiser, or merged into a plain timm state, with a card."""

from trainables.export.adapter import Card, Exporter, load_adapter, read_card

__all__ = ["Card", "Exporter", "load_adapter", "read_card"]
