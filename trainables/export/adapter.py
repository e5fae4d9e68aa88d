"""The export of an adapter: the trained tensors of a trial in one safetensors file, with a card that describes them.

    DIR/card.json              method, configuration, backbone, preprocessing, classes, metrics, counts, origin: see `Card`
    DIR/adapter.safetensors    the trained tensors and the head, for the frozen backbone; or, if merged,
    DIR/model.safetensors      the complete state of a plain timm model

    model = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=10)
    card = load_adapter(model, DIR)
    model.eval()

The merged form does not need Paretune: `timm.create_model(name, num_classes=C, checkpoint_path="DIR/model.safetensors")`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables import backbones, data
from trainables.adapters import PeftMethod, adapt, load_trainable_state, merge, method_of, remove, trainable_state
from trainables.adapters.own import own_methods
from trainables.costs.counting import count_parameters
from trainables.folder import Folder
from trainables.method_files import find_file
from trainables.training import checkpoint

VERSION: Final = 1
CARD: Final = "card.json"
FILES: Final = {"adapter": "adapter.safetensors", "merged": "model.safetensors"}  # form -> file
_PACKAGES: Final = ("paretune", "torch", "timm", "safetensors")


@dataclass(frozen=True)
class Card:
    """The description of an exported adapter, with the fields of card.json.

    Attributes:
        version: Version of this format.
        form: Form of the export, "adapter" or "merged".
        method: Name of the method.
        config: Configuration of the trial, flat and dotted.
        backbone: Mapping with the study's `name`, `weights` and `img_size`, and the `digest` of the frozen weights.
        preprocessing: Mapping with `channels`, `size` (height, width, pixels), `mean`, `std` (for values in [0, 1]) and
            `interpolation`.
        n_classes: Number of outputs of the head.
        class_names: Names of the classes in the order of the outputs; None if the data set has none.
        data: Data section of the study, with `many_labels: true` if an image has any number of labels.
        metrics: Metrics of the last trained epoch.
        epochs: Numbers of epochs: `done` by the trial, and `planned` by the study.
        params: Numbers of parameters: `adapter`, `head` and `backbone`; the first two are trained.
        seed: Seed of the trial.
        origin: Origin of the adapter: `study`, `trial` and the trial's `state`; `code`, the `source` and `digest` of a method that
            the user brought.
        packages: Versions of the packages that wrote the export.
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

    @property
    def file(self) -> str:
        """The name of the tensor file next to the card."""
        return FILES[self.form]

    def lines(self, folder: Path) -> str:
        """Return the Python code that loads the export from `folder`."""
        name, weights, size = (self.backbone[key] for key in ("name", "weights", "img_size"))
        own = {key: tuple(self.preprocessing[key]) for key in ("mean", "std")}  # which timm's transforms then use
        normalised = self.data.get("normalize", "backbone") != "backbone"
        known = timm.get_pretrained_cfg(name) if weights not in (None, backbones.RANDOM) else None
        if known is not None:  # a folder of weights has a size and a normalisation of its own
            size = size or (height if (height := self.preprocessing["size"][0]) != known.input_size[-1] else None)
            normalised = normalised or own != {"mean": tuple(known.mean), "std": tuple(known.std)}
        sized = "" if size is None else f", img_size={size}"
        timm_name = f"{name!r}, num_classes={self.n_classes}{sized}" + (f", pretrained_cfg_overlay={own}" if normalised else "")
        if self.form == "merged":
            ours = f"import trainables.backbones  # registers {name}\n" if name in backbones.OURS else ""
            path = str(folder / self.file)
            return f"import timm\n{ours}model = timm.create_model({timm_name}, checkpoint_path={path!r}).eval()"
        load = f"from trainables.export.adapter import load_adapter\n{{}}\ncard = load_adapter(model, {str(folder)!r})"
        if weights is None:
            return "import timm\n" + load.format(f"model = timm.create_model({timm_name}, pretrained=True).eval()")
        return "from trainables.backbones import create\n" + load.format(f"model = create({name!r}, {weights!r}, {size!r})")


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
    fields = {field.name: str(field.type) for field in dataclasses.fields(Card)}
    if wrong := sorted(fields.keys() ^ values.keys()):
        raise ValueError(f"{path} must have exactly the fields of a card; missing or unknown: {', '.join(wrong)}")
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "str": (str,), "list[str] | None": (list, type(None))}
    for name, kind in fields.items():
        if isinstance(values[name], bool) or not isinstance(values[name], kinds.get(kind, (dict,))):
            raise ValueError(f"{path}: {name} must be of type {kind}; got {values[name]!r}")
    if values["form"] not in FILES:
        raise ValueError(f"{path}: form must be {' or '.join(FILES)}; got {values['form']!r}")
    for name in ("name", "weights", "img_size", "digest"):
        if name not in values["backbone"]:
            raise ValueError(f"{path}: backbone must have {name}; got {', '.join(values['backbone']) or 'nothing'}")
    if values["config"].get("method") != values["method"]:
        raise ValueError(
            f"{path}: method must be the configuration's; got {values['method']!r} and {values['config'].get('method')!r}"
        )
    return Card(**values)


class Exporter:
    """The export of trials that share backbone and data, which are loaded once, with the first trial.

    Args:
        backbone: Mapping with `name`, `weights` and `img_size`, as for `trainables.make`.
        data_set: Mapping with `kind` and the keys that this kind needs.
        methods: The `methods` argument of `trainables.make`; source and digest of a trial's own method are added to `origin`.
    """

    def __init__(self, backbone: Mapping[str, Any], data_set: Mapping[str, Any], methods: Sequence[Mapping[str, Any]] = ()) -> None:
        self._backbone, self._data, self._methods = backbone, data_set, methods
        self._loaded: nn.Module | None = None

    def write(
        self,
        trial: Path | Folder,
        to: Path,
        *,
        config: Mapping[str, Any],
        seed: int,
        origin: Mapping[str, Any],
        at_least: int = 0,
        merged: bool = False,
    ) -> Card:
        """Write a trial's newest checkpoint to the folder `to`, atomically.

        Args:
            trial: Folder of the trial's checkpoint.
            to: Target folder; it must not exist, or be empty.
            config: Configuration of the trial, which the checkpoint must match.
            seed: Seed of the trial, which the checkpoint must match.
            origin: Origin of the adapter, stored in the card.
            at_least: Number of epochs that the checkpoint must hold.
            merged: True to merge the adapter into the weights and write a complete state instead of the trained tensors.

        Raises:
            ValueError: If this trial has no checkpoint, `to` is not empty, the backbone is unavailable or does not fit the
                checkpoint, or the method cannot be merged. Nothing is written.
        """
        if (to.exists() and not to.is_dir()) or (to.is_dir() and any(to.iterdir())):
            raise ValueError(f"{to} must not exist or be an empty folder; choose another")
        saved = _checkpoint(trial, config, seed, at_least)
        model, identity = self._model(), {key: self._backbone.get(key) for key in ("name", "weights", "img_size")}
        identity["digest"] = backbones.digest(model)
        wanted = dataclasses.asdict(backbones.preprocessing(model, self._data.get("normalize", "backbone")))
        n_backbone, n_classes = sum(p.numel() for p in model.parameters()), data.n_classes(self._data)
        method = method_of(saved.facts["config"], own_methods(self._methods))
        code = {m["name"]: {"source": m["source"], "digest": m["digest"]} for m in self._methods}.get(method.name)
        self._loaded = None  # until the model is again as it was
        backbones.set_head(model, n_classes, torch.Generator().manual_seed(0))
        plain = model.state_dict().keys()
        adapt(model, method)
        load_trainable_state(model, saved.group("trainable"))
        n_adapter, n_head = count_parameters(model)
        tensors = trainable_state(model)
        if merged:
            merge(model)
            tensors = model.state_dict()
            if other := sorted(tensors.keys() ^ plain):
                raise ValueError(
                    f"{method.name} cannot be merged on {self._backbone['name']}: the merged function needs tensors for which "
                    f"timm's plain model has no place, or a different one ({', '.join(other[:3])}); export it unmerged"
                )
        packages = (*_PACKAGES, "peft") if isinstance(method, PeftMethod) else _PACKAGES
        card = Card(
            version=VERSION,
            form="merged" if merged else "adapter",
            method=method.name,
            config=dict(config),
            backbone=identity,
            preprocessing=wanted,
            n_classes=n_classes,
            class_names=data.class_names(self._data),
            data={key: value for key, value in self._data.items() if key not in ("rules", "digest", "listing", "watch")}
            | ({"many_labels": True} if data.many_labels(self._data) else {}),
            metrics=saved.facts["metrics"],
            epochs={"done": saved.facts["epoch"], "planned": saved.facts["epochs"]},
            params={"adapter": n_adapter, "head": n_head, "backbone": n_backbone},
            seed=seed,
            origin=dict(origin) if code is None else {**origin, "code": code},
            packages={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
        )
        _write(to, card, tensors)
        if not merged:
            remove(model)
            backbones.remove_head(model)
            self._loaded = model
        return read_card(to)

    def _model(self) -> nn.Module:
        if self._loaded is None:
            backbone = self._backbone
            self._loaded = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"))
            backbones.refuse_changed(self._backbone, backbones.digest(self._loaded))
        return self._loaded


def _checkpoint(trial: Path | Folder, config: Mapping[str, Any], seed: int, at_least: int) -> checkpoint.Checkpoint:
    """Read a trial's checkpoint.

    Raises:
        ValueError: If there is none, or it is of another trial or of an older epoch.
    """
    saved = checkpoint.read(trial)
    if saved is None:
        raise ValueError(f"{trial} has no checkpoint, so there is nothing to export")
    facts = saved.facts
    if (facts["config"], facts["seed"]) != (dict(config), seed):
        raise ValueError(
            f"{trial} holds a checkpoint of {facts['config']}, seed {facts['seed']}; the trial is {dict(config)}, seed {seed}"
        )
    if facts["epoch"] < at_least:
        raise ValueError(
            f"{trial} holds a checkpoint of {facts['epoch']} epochs, and the study records {at_least}: an older copy has taken its "
            "place; restore the newer one"
        )
    return saved


def _write(to: Path, card: Card, tensors: Mapping[str, Tensor]) -> None:
    to = to.resolve()
    unfinished = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
    unfinished.mkdir(parents=True)
    try:
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(own, unfinished / card.file, metadata={"format": "pt"})
        (unfinished / CARD).write_text(json.dumps(dataclasses.asdict(card), indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, to)  # an empty folder is replaced
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _own_code(card: Card) -> list[dict[str, str]]:
    """Return the method that the user brought, as the argument of `own_methods`, if the card has one.

    Raises:
        ValueError: If the user has not named its file.
    """
    if (code := card.origin.get("code")) is None:
        return []
    return [find_file(card.method, code["source"], code["digest"]).as_argument(card.method, code["digest"])]


def load_adapter(model: nn.Module, folder: str | Path) -> Card:
    """Adapt `model` in place with an adapter and a head from an unmerged export; the mode (train, eval) stays.

    Args:
        model: Backbone named by the card, from timm, with its pretrained weights; its classifier has the card's number of classes
            or is missing.
        folder: Folder of the card.

    Raises:
        ValueError: If card or tensors cannot be read, the method is code that the user has not named, the export is merged, or its
            backbone, weights or number of classes differ from the model's. The model is unchanged in that case.
    """
    card, path = read_card(folder), Path(folder) / FILES["adapter"]
    if card.form != "adapter":
        raise ValueError(f"{folder} holds a merged model, which needs no adapter; load it with:\n{card.lines(Path(folder))}")
    name = str(card.backbone["name"])
    own = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if own != name.partition(".")[0]:
        raise ValueError(f"the adapter in {folder} is for the backbone {name}; got {own or type(model).__name__}; create {name}")
    n_outputs = cast(int, model.num_classes)
    if n_outputs not in (0, card.n_classes):
        raise ValueError(f"the adapter in {folder} has {card.n_classes} classes, the model {n_outputs}; create it with as many")
    if backbones.digest(model) != card.backbone["digest"]:
        raise ValueError(
            f"the adapter in {folder} was trained on other weights of {name} than the model's; it needs the unchanged float32 "
            f"weights that this code loads:\n{card.lines(Path(folder))}"
        )
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} must hold the tensors of its card; it cannot be read: {error}") from error
    if n_outputs == 0:
        backbones.set_head(model, card.n_classes, torch.Generator().manual_seed(0))
    try:
        adapt(model, method_of(card.config, own_methods(_own_code(card))))
        try:
            load_trainable_state(model, state)
        except ValueError:
            remove(model)
            raise
    except ValueError:
        if n_outputs == 0:
            backbones.remove_head(model)
        raise
    return card
