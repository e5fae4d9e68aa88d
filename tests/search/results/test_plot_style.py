"""Colour and marker of a method are the same in every picture, and no other method's."""

import spaces
from search.results.plot_style import MARKERS, styles
from search.results.plotly_figures import _SYMBOLS
from search.results.words import METHOD_NAMES


def test_every_packaged_method_has_a_look_of_its_own_in_any_company() -> None:
    every = styles(spaces.SPACES)
    assert every.keys() == spaces.SPACES.keys() == METHOD_NAMES.keys()
    assert len(set(every.values())) == len(every)
    assert {marker for _, marker in every.values()} <= set(MARKERS) == _SYMBOLS.keys()
    for method in spaces.SPACES:
        assert styles([method, "lora", "peft.vera"])[method] == every[method]


def test_other_methods_have_looks_that_no_method_has_in_the_same_picture() -> None:
    others = [f"peft.tuner{n}" for n in range(30)]
    found = styles([*spaces.SPACES, *others])
    assert len(set(found.values())) == len(found)
    assert styles(["peft.tuner7", "lora"])["peft.tuner7"] == styles(["peft.tuner7"])["peft.tuner7"]
