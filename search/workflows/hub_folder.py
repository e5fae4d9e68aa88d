"""An exported adapter as a repository of the Hugging Face Hub: its card as `README.md`, the study's front and its study file.

    DIR/README.md     metrics, configuration, licence of the backbone, and the lines that load the export
    DIR/front.png     the front of the study
    DIR/study.yaml    the study file, without the places on this machine and its servers

Nothing is sent: `hf upload NAME DIR` of `huggingface_hub` does that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from search.results.saved_study import SavedStudy
from trainables.export.card import Card

PRIVATE: Final = ("storage", "ledger", "resources")  # sections of a study file that tell of machines and servers
_OURS: Final = "Paretune (the wheel, or `pip install .` in its clone; it is on no package index)"


def write_hub_files(study: SavedStudy, card: Card, folder: Path) -> None:
    """Write the files of a Hub repository next to an export.

    Args:
        study: Study of the export.
        card: Card of the export.
        folder: Folder of the export.
    """
    study.plot_front(folder / "front.png")
    file = {key: value for key, value in study.row.file.items() if key not in PRIVATE}
    file["search"] = {key: value for key, value in file["search"].items() if key not in ("learn_from", "prior")}  # paths
    file["data"] = {
        key: "..." if key in ("path", "labels") and value else value for key, value in file["data"].items() if key != "watch"
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(file, sort_keys=False), encoding="utf-8")
    (folder / "README.md").write_text(_readme(study, card), encoding="utf-8")


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
    needs = ", ".join(_OURS if name == "paretune" else f"`{name}`" for name in card.libraries)
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
