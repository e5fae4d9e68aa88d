"""The export of an adapter: a trial's newest checkpoint without its optimiser, in one of four forms, with a card, and its use.

Importing this package does not import torch, so that an ONNX model can be used without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainables.export.card import Card, read_card

if TYPE_CHECKING:
    from trainables.export.adapter import Exporter, load_adapter

__all__ = ["Card", "Exporter", "load_adapter", "read_card"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in ("Exporter", "load_adapter"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from trainables.export import adapter

    return getattr(adapter, name)
