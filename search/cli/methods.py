"""Commands about the adapter methods: their knobs, and the size of a configuration."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Column, Table

from search.cli.options import Json, print_json
from search.cli.terminal import Terminal

app = typer.Typer()


@app.command()
def methods(as_json: Json = False) -> None:
    """List the adapter methods and their knobs."""
    import spaces

    every = spaces.SPACES | {name: spaces.space_of(name) for name in spaces.peft.tuners()}
    if as_json:
        rows = [
            {
                "method": name,
                "knobs": [
                    {"key": k.key, "values": str(k.distribution), "default": k.default, "unit": k.unit, "meaning": k.meaning}
                    | {"source": k.source}
                    for k in space.knobs
                ],
            }
            for name, space in every.items()
        ]
        print_json({"methods": rows})
        return
    console = Terminal()
    for name, space in [*every.items(), ("every method", spaces.Space("", spaces.SHARED))]:
        key = Column("knob", min_width=max((len(knob.key) for knob in space.knobs), default=0))
        table = Table(key, "default", "values", "meaning", title=name, title_justify="left", title_style="bold", box=None)
        for knob in space.knobs:
            table.add_row(knob.key, str(knob.default), spaces.in_words(knob.distribution), knob.meaning)
        if space.knobs:
            console.print(table)
        else:
            console.print(name, style="bold")
            console.print("no knobs of its own")
        console.print()
    if not spaces.peft.installed():
        console.print(f"The tuners of Hugging Face PEFT are methods too, as peft.<tuner>; {spaces.peft.REMEDY}")


@app.command()
def count(
    method: Annotated[str, typer.Option(help="The adapter method.")],
    backbone: Annotated[str, typer.Option(help="vit_emoji, vit_glyphs or a timm name.")] = "vit_glyphs",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="knob=value", help="A knob, without the method's prefix.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the head, which is counted separately.")] = 1000,
    as_json: Json = False,
) -> None:
    """Count the parameters that an adapter would train, exactly, without training or allocating anything."""
    import yaml

    import spaces
    from search.errors import RequestError
    from trainables import measure

    try:
        config = spaces.joint([method]).default(method)
        for assignment in overrides or ():
            knob, equals, value = assignment.partition("=")
            if not equals:
                raise ValueError(f"--set {assignment}: an override must have the form knob=value")
            config[f"{method}.{knob.removeprefix(method + '.')}"] = yaml.safe_load(value)
        sizes = measure({"name": backbone}, {"kind": "none", "n_classes": classes})
        adapter_params, head_params = sizes.count(config)
    except (ValueError, yaml.YAMLError) as error:
        raise RequestError(str(error)) from error
    own = {key.removeprefix(f"{method}."): value for key, value in config.items() if key.startswith(f"{method}.")}
    if as_json:
        counted = {"adapter_params": adapter_params, "head_params": head_params}
        print_json({"method": method, "backbone": backbone, "config": own} | counted)
        return
    knobs = " ".join(f"{key}={value}" for key, value in own.items())
    console = Terminal()
    console.print(f"{method} on {backbone}  {knobs}", soft_wrap=True)
    share = adapter_params / sizes.backbone_params
    console.print(f"adapter {adapter_params:>12,}  ({share:.3%} of the backbone's {sizes.backbone_params:,})")
    console.print(f"head    {head_params:>12,}  ({classes} classes)")


@app.command("check-method")
def check_method(
    method: Annotated[str, typer.Argument(metavar="FILE", help="A file with a method, or the name of an installed one.")],
    backbone: Annotated[str, typer.Option(help="vit_emoji, vit_glyphs or a timm name; its weights are random.")] = "vit_glyphs",
    as_json: Json = False,
) -> None:
    """Check a method of your own by the laws of ours. Runs its code with your rights. Exit code 1: a law is broken."""
    from dataclasses import asdict

    from search.config.own_methods import load_named
    from search.errors import RequestError
    from trainables import check_method as verdicts_of

    own, kind = load_named(method)
    try:
        verdicts = verdicts_of(kind, backbone)
    except ValueError as error:
        raise RequestError(f"{method} on {backbone}: {error}") from error
    broken = sum(not verdict.kept for verdict in verdicts)
    if as_json:
        laws = [asdict(verdict) for verdict in verdicts]
        print_json({"method": own.name, "source": own.source, "backbone": backbone, "kept": not broken, "laws": laws})
    else:
        table = Table("law", "", "what was seen", title=f"{own.name} on {backbone}", title_justify="left", box=None)
        for verdict in verdicts:
            table.add_row(verdict.law, "kept" if verdict.kept else "BROKEN", verdict.seen, style=None if verdict.kept else "red")
        Terminal().print(table)
    if broken:
        raise typer.Exit(1)
