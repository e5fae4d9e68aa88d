"""The example notebook runs from top to bottom, and what the page shows is what it gives."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "example.ipynb"


def kinds(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """What each cell of code gives: the media types of its outputs. Libraries' warnings on standard error are a machine's own."""
    return [
        [
            kind
            for output in cell.outputs
            if output.get("name") != "stderr"
            for kind in sorted(output.get("data", {output.get("name", output.output_type): ""}))
        ]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
def test_the_example_notebook_runs_and_gives_what_it_shows(tmp_path: Path) -> None:
    shown = nbformat.read(NOTEBOOK, as_version=4)
    made = nbformat.from_dict(shown)
    NotebookClient(made, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(made) == kinds(nbformat.read(NOTEBOOK, as_version=4))
    assert "stderr" not in NOTEBOOK.read_text()
    assert any("text/html" in kind for kind in kinds(made))
