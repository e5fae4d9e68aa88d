"""The command predict: try an export on images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.options import Json, print_json
from search.cli.terminal import Terminal

app = typer.Typer()


@app.command()
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `export-adapter` wrote, in any format.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    *,
    top: Annotated[int, typer.Option(min=1, help="Number of classes that are printed for each image.")] = 3,
    as_json: Json = False,
) -> None:
    """Answer images with an exported adapter: the most probable classes. No study is needed, and ONNX needs no PyTorch."""
    from search.errors import RequestError
    from trainables.export.predict import predict

    try:
        answers = predict(folder, images)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if as_json:
        print_json(
            [{"path": str(one.path), "class": one.best(1)[0][0], "probabilities": dict(one.probabilities)} for one in answers]
        )
        return
    console = Terminal(soft_wrap=True)
    for answer in answers:
        best = ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in answer.best(top))
        console.print(f"{answer.path}: {best}")
