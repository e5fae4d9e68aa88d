"""The export of a trial: its newest checkpoint without the optimiser, in one of four forms, with a card that describes it.

    DIR/card.json              see `trainables.export.card.Card`
    DIR/adapter.safetensors    form adapter: the trained tensors and the head, for the frozen backbone
    DIR/model.safetensors      form merged: the complete state of a plain timm model
    DIR/adapter_model.safetensors, adapter_config.json    form peft: see `trainables.export.peft_format`
    DIR/model.onnx             form onnx: see `trainables.export.onnx_format`

    model = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=10)
    card = load_adapter(model, DIR)
    model.eval()

The other forms do not need Paretune; `Card.lines` has the code that loads them.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import os
import platform
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables import backbones, data
from trainables.adapters import (
    Method,
    PeftMethod,
    adapt,
    load_trainable_state,
    merge,
    method_of,
    remove,
    trainable_state,
    unmergeable,
)
from trainables.adapters.own import own_methods
from trainables.costs.counting import count_parameters
from trainables.export import onnx_format, peft_format
from trainables.export.card import FILES, FORMATS, UNMERGED, VERSION, Card, read_card, write_card
from trainables.export.peft_format import Rank
from trainables.export.validation import Validation, validation
from trainables.folder import Folder
from trainables.method_files import find_file
from trainables.tasks.base import Task
from trainables.tasks.classification import MANY_LABELS, ONE_LABEL
from trainables.tasks.segmentation import SEGMENTATION
from trainables.training import checkpoint

__all__ = ["FORMATS", "Card", "Exporter", "Form", "Rank", "load_adapter", "read_card"]

_PACKAGES: Final = ("paretune", "torch", "timm", "safetensors")
_FORM_PACKAGES: Final = {"peft": ("peft",), "onnx": ("onnx", "onnxruntime")}


@dataclass(frozen=True)
class Form:
    """The form of an export and its options.

    Attributes:
        name: Name, a key of `trainables.export.card.FILES`.
        rank: Choice of the rank, for the form `peft`.
        normalize_inside: True to normalise pixels in the graph, for the form `onnx`.
    """

    name: str = "adapter"
    rank: Rank = field(default_factory=Rank)
    normalize_inside: bool = False

    def __post_init__(self) -> None:
        if self.name not in FILES:
            raise ValueError(f"the form of an export must be one of {', '.join(FILES)}; got {self.name!r}")
        if self.rank != Rank() and self.name != "peft":
            raise ValueError("a rank, or points of accuracy that may be lost, belong to the format peft")
        if self.normalize_inside and self.name != "onnx":
            raise ValueError("only the format onnx can hold the normalisation of images")


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
        self._validation: Validation | None = None

    def write(
        self,
        trial: Path | Folder,
        to: Path,
        *,
        config: Mapping[str, Any],
        seed: int,
        origin: Mapping[str, Any],
        at_least: int = 0,
        form: Form = Form(),
    ) -> Card:
        """Write a trial's newest checkpoint to the folder `to`, atomically.

        Args:
            trial: Folder of the trial's checkpoint.
            to: Target folder; it must not exist, or be empty.
            config: Configuration of the trial, which the checkpoint must match.
            seed: Seed of the trial, which the checkpoint must match.
            origin: Origin of the adapter, stored in the card.
            at_least: Number of epochs that the checkpoint must hold.
            form: Form of the export.

        Raises:
            ValueError: If this trial has no checkpoint, `to` is not empty, the backbone is unavailable or does not fit the
                checkpoint, or the method does not have this form. Nothing is written.
        """
        if (to.exists() and not to.is_dir()) or (to.is_dir() and any(to.iterdir())):
            raise ValueError(f"{to} must not exist or be an empty folder; choose another")
        task = data.task_of(self._data)
        if form.name not in task.formats:
            own = [name for name, one in FORMATS.items() if one in task.formats]
            raise ValueError(f"a model for {task.name} has the format {', '.join(own)}; got {_format_of(form)}")
        saved = _checkpoint(trial, config, seed, at_least)
        model, identity = self._model(), {key: self._backbone.get(key) for key in ("name", "weights", "img_size")}
        identity["digest"] = backbones.digest(model)
        wanted = backbones.preprocessing(model, self._data.get("normalize", "backbone"))
        n_backbone, n_classes = sum(p.numel() for p in model.parameters()), data.n_classes(self._data)
        method = method_of(saved.facts["config"], own_methods(self._methods))
        code = {m["name"]: {"source": m["source"], "digest": m["digest"]} for m in self._methods}.get(method.name)
        self._loaded = None  # until the model is again as it was
        task.set_head(model, n_classes, torch.Generator().manual_seed(0))
        plain = copy.deepcopy(model) if form.name == "peft" else None
        names = model.state_dict().keys()
        adapt(model, method)
        load_trainable_state(model, saved.group("trainable"))
        n_adapter, n_head = count_parameters(model)
        if form.name in ("peft", "onnx") and self._validation is None:
            self._validation = validation(self._data, wanted)
        packages = (*_PACKAGES, *(("peft",) if isinstance(method, PeftMethod) else _FORM_PACKAGES.get(form.name, ())))
        with _draft(to) as draft:
            if form.name in ("adapter", "merged"):
                conversion: Mapping[str, Any] = {}
                _save(
                    trainable_state(model) if form.name == "adapter" else self._merged(model, method, names),
                    draft / FILES[form.name],
                )
            elif plain is not None:
                conversion = self._as_peft(model, plain, draft, form.rank)
            else:
                conversion = self._as_onnx(model, draft, normalize_inside=form.normalize_inside)
            card = Card(
                version=VERSION,
                form=form.name,
                method=method.name,
                config=dict(config),
                backbone=identity,
                preprocessing=dataclasses.asdict(wanted),
                n_classes=n_classes,
                class_names=data.class_names(self._data),
                data={key: value for key, value in self._data.items() if key not in ("rules", "digest", "listing", "watch")}
                | ({"many_labels": True} if task is MANY_LABELS else {"task": task.name} if task is SEGMENTATION else {}),
                metrics=saved.facts["metrics"],
                epochs={"done": saved.facts["epoch"], "planned": saved.facts["epochs"]},
                params={"adapter": n_adapter, "head": n_head, "backbone": n_backbone},
                seed=seed,
                origin=dict(origin) if code is None else {**origin, "code": code},
                packages={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
                conversion=conversion,
            )
            write_card(card, draft)
        if form.name == "adapter":
            remove(model)
            task.remove_head(model)
            self._loaded = model
        return read_card(to)

    def _model(self) -> nn.Module:
        if self._loaded is None:
            backbone = self._backbone
            self._loaded = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"))
            backbones.refuse_changed(self._backbone, backbones.digest(self._loaded))
        return self._loaded

    def _merged(self, model: nn.Module, method: Method, plain: Set[str]) -> Mapping[str, Tensor]:
        """Merge the adapter and return the complete state, which must have the plain model's names."""
        if (reason := unmergeable(model)) is not None:
            raise ValueError(f"{reason}; {UNMERGED}")
        merge(model)
        tensors: Mapping[str, Tensor] = model.state_dict()
        if other := sorted(tensors.keys() ^ plain):
            raise ValueError(
                f"{method.name} cannot be merged on {self._backbone['name']}: the merged function needs tensors for which "
                f"timm's plain model has no place, or a different one ({', '.join(other[:3])}); {UNMERGED}"
            )
        return tensors

    def _as_peft(self, model: nn.Module, plain: nn.Module, draft: Path, rank: Rank) -> Mapping[str, Any]:
        """Write PEFT's files."""
        head = backbones.classifier(plain)
        plain.get_submodule(head).load_state_dict(model.get_submodule(head).state_dict())
        assert self._validation is not None  # noqa: S101 - `write` has loaded it
        return peft_format.write(model.eval(), plain.eval(), draft, self._backbone["name"], rank, on=self._validation)

    def _as_onnx(self, model: nn.Module, draft: Path, *, normalize_inside: bool) -> Mapping[str, Any]:
        """Write an ONNX model, merged where the adapter can be."""
        if merged := unmergeable(model) is None:
            merge(model)
        assert self._validation is not None  # noqa: S101 - `write` has loaded it
        return onnx_format.write(model.eval(), draft, on=self._validation, merged=merged, normalize_inside=normalize_inside)


def _format_of(form: Form) -> str:
    return next(name for name, one in FORMATS.items() if one == form.name)


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


@contextmanager
def _draft(to: Path) -> Iterator[Path]:
    """Give a folder that takes the place of `to` when the block ends, or vanishes with an error."""
    to = to.resolve()
    unfinished = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        os.replace(unfinished, to)  # an empty folder is replaced
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(own, path, metadata={"format": "pt"})


def _own_code(card: Card) -> list[dict[str, str]]:
    """Return the method that the user brought, as the argument of `own_methods`, if the card has one.

    Raises:
        ValueError: If the user has not named its file.
    """
    if (code := card.origin.get("code")) is None:
        return []
    return [find_file(card.method, code["source"], code["digest"]).as_argument(card.method, code["digest"])]


def task_of(card: Card) -> Task:
    """Return the task that an exported model answers."""
    if card.answers_pixels:
        return SEGMENTATION
    return MANY_LABELS if card.data.get("many_labels", False) else ONE_LABEL


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
        raise ValueError(
            f"{folder} holds the form {card.form}, which needs no `load_adapter`; load it with:\n{card.lines(Path(folder))}"
        )
    name = str(card.backbone["name"])
    own = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    if own != name.partition(".")[0]:
        raise ValueError(f"the adapter in {folder} is for the backbone {name}; got {own or type(model).__name__}; create {name}")
    n_outputs = cast(int, model.num_classes)
    if card.answers_pixels and n_outputs:
        raise ValueError(f"the adapter in {folder} has a head for pixels; create {name} without a head: num_classes=0")
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
    task = task_of(card)
    if n_outputs == 0:
        task.set_head(model, card.n_classes, torch.Generator().manual_seed(0))
    try:
        adapt(model, method_of(card.config, own_methods(_own_code(card))))
        try:
            load_trainable_state(model, state)
        except ValueError:
            remove(model)
            raise
    except ValueError:
        if n_outputs == 0:
            task.remove_head(model)
        raise
    return card
