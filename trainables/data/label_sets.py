"""Images with any number of labels. Until its images are loaded, a listing treats each set of labels that occurs as one class."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence


def joined(names: Iterable[str]) -> str:
    """Return a set of labels as one text, the same for every order."""
    return json.dumps(sorted(set(names)), ensure_ascii=False)


def names_of(text: str) -> list[str]:
    """Return the labels of a set."""
    found: list[str] = json.loads(text)
    return found


def strata(sets: Sequence[str], least: int) -> list[str]:
    """Return the group of each image from which a share is drawn: images of the same set, or, if it is rare, of all rare sets.

    Args:
        sets: Set of labels of each image.
        least: Number of images from which on a set is not rare.
    """
    counts = Counter(sets)
    return [text if counts[text] >= least else "" for text in sets]
