"""The card of an export: what the files in the folder are, how they were made, and the code that loads them. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

VERSION: Final = 1
CARD: Final = "card.json"
FILES: Final = {  # form -> file of its tensors
    "adapter": "adapter.safetensors",
    "merged": "model.safetensors",
    "peft": "adapter_model.safetensors",
    "onnx": "model.onnx",
}
FORMATS: Final = {"paretune": "adapter", "peft": "peft", "merged": "merged", "onnx": "onnx"}  # as a user names a form -> form
UNMERGED: Final = "it has the formats paretune and onnx"  # an adapter that cannot be merged
LIBRARIES: Final = {  # form -> the packages with which its lines run
    "adapter": ("paretune",),
    "merged": ("timm", "safetensors"),
    "peft": ("timm", "peft", "safetensors"),
    "onnx": ("onnxruntime", "numpy"),
}
_RANDOM: Final = "random"  # `trainables.backbones.RANDOM`, which needs torch
OURS: Final = ("vit_glyphs", "vit_emoji")  # `trainables.backbones.OURS`


@dataclass(frozen=True)
class Card:
    """The description of an exported adapter, with the fields of card.json.

    Attributes:
        version: Version of this format.
        form: Form of the export, a key of `FILES`.
        method: Name of the method.
        config: Configuration of the trial, flat and dotted.
        backbone: Mapping with the study's `name`, `weights` and `img_size`, and the `digest` of the frozen weights.
        preprocessing: Mapping with `channels`, `size` (height, width, pixels), `mean`, `std` (for values in [0, 1]) and
            `interpolation`.
        n_classes: Number of outputs of the head.
        class_names: Names of the classes in the order of the outputs; None if the data set has none.
        data: Data section of the study, with `many_labels: true` if an image has any number of labels, and `task: segmentation` if
            its pixels have classes.
        metrics: Metrics of the last trained epoch.
        epochs: Numbers of epochs: `done` by the trial, and `planned` by the study.
        params: Numbers of parameters: `adapter`, `head` and `backbone`; the first two are trained.
        seed: Seed of the trial.
        origin: Origin of the adapter: `study`, `trial` and the trial's `state`; `code`, the `source` and `digest` of a method that
            the user brought.
        packages: Versions of the packages that wrote the export.
        conversion: Mapping with the facts of a conversion, see `trainables.export.peft_format` and
            `trainables.export.onnx_format`; empty for an adapter and a merged model.
    """

    version: int
    form: str
    method: str
    config: Mapping[str, Any]
    backbone: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    n_classes: int
    class_names: list[str] | None
    data: Mapping[str, Any]
    metrics: Mapping[str, float]
    epochs: Mapping[str, int]
    params: Mapping[str, int]
    seed: int
    origin: Mapping[str, Any]
    packages: Mapping[str, str]
    conversion: Mapping[str, Any] = field(default_factory=dict)

    @property
    def answers_pixels(self) -> bool:
        """True if the model answers with a class of each pixel, (n, classes, height, width)."""
        return self.data.get("task") == "segmentation"

    @property
    def file(self) -> str:
        """The name of the tensor file next to the card."""
        return FILES[self.form]

    @property
    def libraries(self) -> tuple[str, ...]:
        """The packages with which `lines` runs; the packaged backbones need Paretune, which registers them with timm."""
        ours = self.backbone["name"] in OURS or self.backbone["weights"] is not None
        if (self.form == "peft" and ours) or (self.form == "merged" and self.backbone["name"] in OURS):
            return (*LIBRARIES[self.form], "paretune")
        return LIBRARIES[self.form]

    def facts(self) -> list[str]:
        """Return what the conversion did, in sentences."""
        made, size = self.conversion, f"{self.conversion.get('n_bytes', 0) / 1e6:,.2f} MB"
        if self.form == "onnx":
            checked, merged = made["checked"], "merged" if made["merged"] else "not merged"
            return [
                f"ONNX of opset {made['opset']}, {size}, {merged}; ONNX Runtime and PyTorch agree on {checked['n_images']} "
                f"validation images within {checked['largest_difference']:.1g}"
            ]
        if self.form != "peft":
            return []
        if "rank" not in made:
            return [f"PEFT's {made['tuner']}, {size}; PEFT computes the same"]
        told = made["accuracy"]
        lines = [
            f"LoRA of rank {made['rank']}, {size}: {told['metric']} {100 * told['after']:.2f} % on {told['n_images']:,} validation "
            f"images, before the conversion {100 * told['before']:.2f} %"
        ]
        if made["left_out"]:
            lines.append(f"PEFT has no place for {', '.join(made['left_out'])}: they keep their pretrained values")
        return lines

    def licence(self) -> str | None:
        """Return the licence of a backbone's own weights, as timm states it; None if it is not known, as for a local file."""
        if self.backbone["weights"] is not None:
            return None
        if self.backbone["name"] in OURS:
            return "apache-2.0"  # as Paretune, which holds them
        import timm

        known: Any = timm.get_pretrained_cfg(str(self.backbone["name"]))
        return None if known is None else known.license

    def fields(self) -> dict[str, Any]:
        """Return the content of card.json."""
        fields = dataclasses.asdict(self)
        if not fields["conversion"]:  # an earlier Paretune reads the card, too
            del fields["conversion"]
        return fields

    def public(self) -> Card:
        """Return the card for others: without the folders of this machine, which it has of images, weights and a user's method."""
        backbone, data, origin = dict(self.backbone), without_paths(self.data), dict(self.origin)
        if backbone["weights"] is not None:
            backbone["weights"] = Path(backbone["weights"]).name
        if (code := origin.get("code")) is not None:
            origin["code"] = {**code, "source": Path(code["source"]).name}
        return dataclasses.replace(self, backbone=backbone, data=data, origin=origin)

    def lines(self, folder: Path) -> str:
        """Return the Python code that loads the export from `folder`."""
        path = str(folder / self.file)
        if self.form == "onnx":
            kind, shape = self.conversion["input"]["type"], tuple(self.conversion["input"]["shape"][1:])
            return (
                f"import numpy, onnxruntime\nsession = onnxruntime.InferenceSession({path!r})\n"
                f"images = numpy.zeros((1, *{shape}), {kind!r})  # yours: {self._input_in_words()}\n"
                f'logits = session.run(["logits"], {{"images": images}})[0]'
            )
        name, weights, size = (self.backbone[key] for key in ("name", "weights", "img_size"))
        timm_name = self._timm_name()
        ours = f"import trainables.backbones  # registers {name}\n" if name in OURS else ""
        if self.form == "merged":
            return f"import timm\n{ours}model = timm.create_model({timm_name}, checkpoint_path={path!r}).eval()"
        if self.form == "peft":
            load = f"model = PeftModel.from_pretrained(model, {str(folder)!r}).eval()"
            if weights is None:
                made = f"model = timm.create_model({timm_name}, pretrained=True)"
                return f"import timm\nfrom peft import PeftModel\n{ours}{made}\n{load}"
            made = f"model = create({name!r}, {weights!r}, {size!r})\nmodel.reset_classifier({self.n_classes})\n"
            return f"from peft import PeftModel\nfrom trainables.backbones import create\n{made}{load}"
        load = f"from trainables.export.adapter import load_adapter\n{{}}\ncard = load_adapter(model, {str(folder)!r})"
        if weights is None:
            return "import timm\n" + load.format(f"model = timm.create_model({timm_name}, pretrained=True).eval()")
        return "from trainables.backbones import create\n" + load.format(f"model = create({name!r}, {weights!r}, {size!r})")

    def _timm_name(self) -> str:
        """Return the arguments with which timm creates the model."""
        import timm

        name, weights, size = (self.backbone[key] for key in ("name", "weights", "img_size"))
        own = {key: tuple(self.preprocessing[key]) for key in ("mean", "std")}  # which timm's transforms then use
        normalised = self.data.get("normalize", "backbone") != "backbone"
        known = timm.get_pretrained_cfg(name) if weights not in (None, _RANDOM) else None
        if known is not None:  # a folder of weights has a size and a normalisation of its own
            size = size or (height if (height := self.preprocessing["size"][0]) != known.input_size[-1] else None)
            normalised = normalised or own != {"mean": tuple(known.mean), "std": tuple(known.std)}
        sized = "" if size is None else f", img_size={size}"
        n_classes = 0 if self.answers_pixels else self.n_classes  # a head for pixels comes with the adapter
        return f"{name!r}, num_classes={n_classes}{sized}" + (f", pretrained_cfg_overlay={own}" if normalised else "")

    def _input_in_words(self) -> str:
        """Return what the ONNX model takes."""
        if self.conversion["normalize_inside"]:
            return "(n, channels, height, width), pixels of 0 to 255"
        mean, std = (self.preprocessing[key] for key in ("mean", "std"))
        return f"(n, channels, height, width), (pixels / 255 - {mean}) / {std}"


def without_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data section whose images may be anywhere, and which watches no other data set."""
    return {key: "..." if key in ("path", "labels") and value else value for key, value in data.items() if key != "watch"}


def write_card(card: Card, folder: Path) -> None:
    """Write card.json into a folder."""
    (folder / CARD).write_text(json.dumps(card.fields(), indent=2) + "\n", encoding="utf-8")


def read_card(folder: str | Path) -> Card:
    """Read the card in `folder`.

    Raises:
        ValueError: If there is no card, or it is not one of this version.
    """
    path = Path(folder) / CARD
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} must be the card of an exported adapter; it cannot be read: {error}") from error
    if not isinstance(values, dict) or values.get("version") != VERSION:
        version = values.get("version") if isinstance(values, dict) else None
        raise ValueError(f"{path} must be a card of version {VERSION}; got {version!r}; export the trial again")
    values.setdefault("conversion", {})
    fields = {field.name: str(field.type) for field in dataclasses.fields(Card)}
    if wrong := sorted(fields.keys() ^ values.keys()):
        raise ValueError(f"{path} must have exactly the fields of a card; missing or unknown: {', '.join(wrong)}")
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "list[str] | None": (list, type(None))}
    for name, kind in fields.items():
        if isinstance(values[name], bool) or not isinstance(values[name], kinds.get(kind, (dict,))):
            raise ValueError(f"{path}: {name} must be of type {kind}; got {values[name]!r}")
    if values["form"] not in FILES:
        raise ValueError(f"{path}: form must be one of {', '.join(FILES)}; got {values['form']!r}")
    for name in ("name", "weights", "img_size", "digest"):
        if name not in values["backbone"]:
            raise ValueError(f"{path}: backbone must have {name}; got {', '.join(values['backbone']) or 'nothing'}")
    if values["config"].get("method") != values["method"]:
        raise ValueError(
            f"{path}: method must be the configuration's; got {values['method']!r} and {values['config'].get('method')!r}"
        )
    return Card(**values)
