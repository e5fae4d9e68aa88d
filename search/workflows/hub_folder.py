"""An exported adapter as a repository of the Hugging Face Hub: its card as `README.md`, the study's front and its study file.

    DIR/README.md     metrics, configuration, licence of the backbone, and the lines that load the export
    DIR/front.png     the front of the study
    DIR/study.yaml    the study file, without the places on this machine and its servers
    DIR/card.json     the card, without them either

Nothing is sent: `hf upload NAME DIR` of `huggingface_hub` does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from search.config.loading import check_stored
from search.results.saved_study import SavedStudy
from trainables.export.card import Card, without_paths, write_card

PRIVATE: Final = ("storage", "ledger", "resources")  # sections of a study file that tell of machines and servers
_OURS: Final = "Paretune (the wheel, or `pip install .` in its clone; it is on no package index)"


def write_hub_files(study: SavedStudy, card: Card, folder: Path) -> Card:
    """Write the files of a Hub repository next to an export; return the card that is then there.

    Args:
        study: Study of the export.
        card: Card of the export.
        folder: Folder of the export.
    """
    card = card.public()
    study.plot_front(folder / "front.png")
    (folder / "study.yaml").write_text(yaml.safe_dump(_study_file(study), sort_keys=False), encoding="utf-8")
    (folder / "README.md").write_text(_readme(study, card), encoding="utf-8")
    write_card(card, folder)
    return card


def _study_file(study: SavedStudy) -> dict[str, Any]:
    """Return the study file as its user wrote it, without paths: files of the user are named as if they were next to it."""
    stored = check_stored(study.row.file)
    methods = {name: f"./{Path(own.source).name}" for name, own in stored.own_methods.items() if own.source.endswith(".py")}
    file = {key: value for key, value in stored.written(methods).items() if key not in PRIVATE}
    file["search"] = {key: value for key, value in file["search"].items() if key not in ("learn_from", "prior")}  # paths
    file["data"] = without_paths(file["data"])
    if (weights := file["backbone"]["weights"]) is not None:
        file["backbone"]["weights"] = Path(weights).name
    return file


def _files(card: Card) -> Iterator[str]:
    """Yield the files that the lines of a card need next to it, and that the export does not hold."""
    if card.form in ("merged", "onnx"):
        return
    if (weights := card.backbone["weights"]) not in (None, "random"):
        yield f"and the weights `{weights}` of the backbone in it"
    if (code := card.origin.get("code")) is not None and code["source"].endswith(".py"):
        yield f"and the method's file named by `PARETUNE_METHODS={code['source']}`"


def _readme(study: SavedStudy, card: Card) -> str:
    licence = card.licence()
    backbone, weights = str(card.backbone["name"]), card.backbone["weights"]
    top = {
        "library_name": {"peft": "peft", "merged": "timm", "onnx": "onnx"}.get(card.form, "timm"),
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "paretune", card.method],
    }
    if licence is not None:
        top["license"] = licence
    metrics = "\n".join(f"| `{key}` | {value:.4g} |" for key, value in sorted(card.metrics.items()) if not key.startswith("cost/"))
    needs = ", ".join([*(_OURS if name == "paretune" else f"`{name}`" for name in card.libraries), *_files(card)])
    knobs = "\n".join(f"| `{key}` | {value} |" for key, value in card.config.items())
    of = "not known" if licence is None else licence
    classes = f"{card.n_classes} classes" + (f": {', '.join(card.class_names[:20])}" if card.class_names else "")
    more = ", ..." if card.class_names and len(card.class_names) > 20 else ""
    facts = "".join(f"\n{line}.\n" for line in card.facts())
    source = "its own weights" if weights is None else f"the weights `{Path(str(weights)).name}`"
    return f"""---
{yaml.safe_dump(top, sort_keys=False)}---

# {study.name}: `{backbone}` with {card.method}

An image classifier: {source} of `{backbone}` (licence: {of}), adapted with {card.method}.
{card.params["adapter"]:,} parameters of the adapter and {card.params["head"]:,} of the head were trained, next to
{card.params["backbone"]:,} frozen ones. {classes}{more}.
{facts}
## Load it

In this folder, with {needs}:

```python
{card.lines(Path("."))}
```

Images of {card.preprocessing["size"][0]} x {card.preprocessing["size"][1]} pixels, {card.preprocessing["channels"]} channels, \
(pixel / 255 - {card.preprocessing["mean"]}) / {card.preprocessing["std"]}.

## How good it is

After {card.epochs["done"]} of {card.epochs["planned"]} epochs, on the validation split, by which it was chosen:

| metric | value |
|---|---|
{metrics}

![Accuracy against size of every adapter that the study tried](front.png)

It is trial {card.origin["trial"]} of the study in `study.yaml`.

| knob | value |
|---|---|
{knobs}
"""
