"""Libraries' warnings go to the study's log, those of before it too, and never to the terminal."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
from PIL import Image

from search.workflows import library_logs
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


def test_a_log_that_grows_keeps_its_last_lines_in_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_logs, "LARGEST", 2_000)
    log = tmp_path / "paretune.log"
    with logged_to(log):
        for number in range(100):
            print(f"printed {number}")
            logging.getLogger("timm.models").warning("logged %s", number)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["paretune.log", "paretune.log.1"]
    lines = (tmp_path / "paretune.log.1").read_text().splitlines() + log.read_text().splitlines()
    assert max(file.stat().st_size for file in tmp_path.iterdir()) < 2_200
    assert lines[-2] == "printed 99"
    assert lines[-1].endswith("logged 99")
