"""What the README and the tour of the commands tell a newcomer to type works."""

import re
import shlex
from pathlib import Path

import pytest

from .own_methods import GAIN
from .search.command_line import paretune, paretune_process

README = (Path(__file__).parents[1] / "README.md").read_text()
TOUR = (Path(__file__).parents[1] / "docs" / "tour.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", TOUR, re.DOTALL)
STEERING = "## Steer a running study"  # its commands need a study that runs: tests/search/cli/test_control.py
COMMANDS = [
    command
    for section in re.split(r"^(?=##)", TOUR, flags=re.MULTILINE)
    if not section.startswith(STEERING)
    for command in re.findall(r"^\| `(paretune [^`]+)` \|", section, re.MULTILINE)
]
IN_PROCESS = ("--back-end", "in-process")  # Ray is started once, for `run`


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a small version of the packaged study has been run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "gain.py").write_text(GAIN)
    done = paretune("run", "--set", "budget.n_trials=4", "--set", "budget.epochs=1", *IN_PROCESS, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_command_of_the_tour_works_in_its_order(digits: Path) -> None:
    assert len(COMMANDS) >= 23
    assert STEERING in TOUR
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        if words[0] == "run":
            done = paretune_process(*words, cwd=digits)
        else:
            done = paretune(*words, *(IN_PROCESS if words[0] == "resume" else ()), cwd=digits)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert done.stdout


def test_the_adapters_work_as_the_tour_says() -> None:
    program = next(block for block in PYTHON if "adapt(" in block)
    exec(compile(program, "tour.md", "exec"), {})  # noqa: S102 - our own file


def test_every_link_of_the_readme_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (Path(__file__).parents[1] / target).exists(), target
