"""Samplers that tests draw from without a study around them."""

from __future__ import annotations

from typing import Any

from search.samplers.base import NewConfig, SamplerContext
from search.samplers.sampler import SeededSampler
from spaces import Config, JointSpace


def make_sampler(space: JointSpace, name: str = "random", *, seed: int = 0, **context: Any) -> SeededSampler:
    """The sampler that a study file would name."""
    return SeededSampler.make(name, SamplerContext(space, **context), seed=seed)


def draw(sampler: SeededSampler) -> tuple[int, Config]:
    """The ticket and the configuration of a sampler that always has a new one."""
    answer = sampler.draw()
    assert isinstance(answer, NewConfig)
    assert answer.ticket is not None
    return answer.ticket, answer.config
