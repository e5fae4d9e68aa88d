"""`Knob.sizes` says truly which knobs the number of trainable parameters depends on: what is remembered by them is exact."""

import random

import pytest

import spaces
from search.samplers.random_sampler import draw_uniformly
from trainables import measure


@pytest.mark.parametrize("method", spaces.SPACES)
def test_knobs_that_are_said_not_to_move_the_size_do_not(method: str) -> None:
    sizes = measure({"name": "vit_glyphs"}, {"kind": "digits"})
    space, by = spaces.joint([method]), random.Random(method)
    for _ in range(6):
        config, other = draw_uniformly(space, by), draw_uniformly(space, by)
        sized = {knob.key: config[knob.key] for knob in space.knobs(method) if knob.sizes}
        assert counted(sizes, other | sized) == counted(sizes, config)


def counted(sizes: object, config: dict[str, object]) -> object:
    """The size, or that there is none."""
    try:
        return sizes.count(config)  # type: ignore[attr-defined]
    except ValueError:
        return "impossible"
