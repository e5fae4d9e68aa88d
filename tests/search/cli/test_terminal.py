"""Texts of other people and programs are shown as they are: they style nothing, break nothing, and steer no terminal."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import search
from search.cli.options import complain
from search.names import printable
from search.trial import State

from ..command_line import paretune
from ..scripted_study import ScriptedStudy

REASON = "[/x] [bold]loss[/] :smile: \x1b[2J\x07 \u202eevil \x9b31m"
SHOWN = r"[/x] [bold]loss[/] :smile: \x1b[2J\x07 \u202eevil \x9b31m"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A study whose trial, rejection and event have a reason that another user wrote."""
    scripted = ScriptedStudy(tmp_path / "paretune-studies", "s")
    scripted.finish(0)
    scripted.start(1)
    with scripted.ledger.decision() as writer:
        writer.finish(scripted.trials[1], State.PRUNED, reason=REASON)
        writer.reject([({"method": "lora", "lora.rank": 9}, REASON)])
    scripted.ledger.close()
    return tmp_path


@pytest.mark.parametrize(
    ("command", "tells"),
    [
        (("show", "s", "1"), True),
        (("events", "s"), True),
        (("trials", "s", "--rejected"), True),
        (("trials", "s"), False),
        (("status", "s"), False),
        (("front", "s"), False),
    ],
)
def test_a_reason_is_shown_as_it_was_written(home: Path, command: tuple[str, ...], tells: bool) -> None:
    said = paretune(*command, cwd=home)
    assert said.returncode == 0, said.stderr
    assert (said.stdout + said.stderr).replace("\n", "").isprintable()
    assert (SHOWN in said.stdout) is tells


def test_an_error_is_shown_as_it_was_written(home: Path) -> None:
    said = paretune("front", f"nothing {REASON}", cwd=home)
    assert said.returncode == 2
    assert SHOWN in said.stderr
    assert said.stderr.replace("\n", "").isprintable()


def test_a_text_that_is_printable_stays_and_the_rest_is_escaped() -> None:
    for text in ("", "plain", "ümläut 漢字 🙂", "two\nlines\tand a tab"):
        assert printable(text) == text
    assert printable("\r\x00\u200b\u2028\udc80") == r"\r\x00\u200b\u2028\udc80"


def test_every_command_prints_through_the_terminal() -> None:
    root = Path(search.__file__).parent
    users = {
        str(path.relative_to(root)) for path in root.rglob("*.py") if re.search(r"\bConsole\b|(?<![.\w])print\(", path.read_text())
    }
    assert users - {"tracking/recorder.py"} == {"cli/terminal.py"}


def test_a_problem_is_not_broken_within_words_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"train/red/red{number:02d}.png" for number in range(20)]
    monkeypatch.setenv("COLUMNS", "50")
    for terminal, lines in (("1", 10), ("0", 1)):
        monkeypatch.setenv("TTY_COMPATIBLE", terminal)
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            complain(" ".join(words))
        plain = re.sub(r"\x1b\[[0-9;]*m", "", printed.getvalue())
        assert plain.split()[1:] == words
        assert len(plain.splitlines()) == lines
