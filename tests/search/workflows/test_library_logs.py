"""Libraries' warnings go to the study's log, those of before it too, and never to the terminal."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
from PIL import Image

from search.workflows.library_logs import held, logged_to


def warn_in(place: str) -> None:
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = bytes(4)
    palette.convert("L")  # Pillow's own warning
    warnings.warn(f"one of torch {place}", UserWarning, stacklevel=1)
    logging.getLogger("timm.models").warning("one of timm %s", place)


def test_warnings_before_in_and_after_a_study_reach_its_log_or_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "paretune.log"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        shown = warnings.showwarning
        with held():
            warn_in("before")
            with logged_to(log):
                warn_in("within")
            warn_in("after")
        assert warnings.showwarning is shown
    written = log.read_text()
    for place in ("before", "within"):
        assert f"one of torch {place}" in written
        assert f"one of timm {place}" in written
    assert written.count("Palette images with Transparency") == 2
    assert "after" not in written
    assert capfd.readouterr() == ("", "")
