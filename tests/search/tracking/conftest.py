"""Recording as users have it: by a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from search.tracking.recorder import RecorderProcess


@pytest.fixture(scope="module", autouse=True)
def _recorded_by_a_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.workflows.run.RecorderProcess", RecorderProcess)
        yield
