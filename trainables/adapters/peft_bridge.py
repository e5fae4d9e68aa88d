"""Any tuner of Hugging Face PEFT that adapts linears, as a method: `peft.lora`, `peft.vera`, `peft.fourierft`, ...

    model = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=10)
    adapt(model, peft_method("vera")(r=64))

`peft_method(tuner)` is a frozen dataclass, like every method. Its fields are `targets`, `layers` and the plain fields of PEFT's
configuration class, with PEFT's names and defaults.

PEFT builds its layers on a tree that holds only the chosen linears of one stage, under their names in the model. Each layer is then
wrapped with its linear in a `Layer` of ours, so that freezing, counting, checkpoints and removal are those of every method. Tensors
that a tuner shares between layers (VeRA's projections, VB-LoRA's vectors) are shared within the stage.

Merging uses none of PEFT's code: a layer that is affine in its input is a linear, whose bias is its output for zero and whose
weight follows from its outputs for the unit vectors. A layer that is not affine is detected by a probe and rejected.

A checkpoint holds trainable tensors only. So the frozen tensors of a tuner (random projections, chosen entries) must not depend on
the trial's seed: PEFT draws them from seeds in its configuration, which stay at PEFT's defaults, or 0 if there is no default.

targets      linears of each block (q, k and v are one in timm)
qkv          attn.qkv
qkvo         attn.qkv and attn.proj
mlp          mlp.fc1 and mlp.fc2
qkvo_mlp     all four

This is the only file that imports PEFT.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import typing
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, ClassVar, Final, cast

import torch
from torch import Tensor, nn

from trainables.adapters.base import Adaptation, Layer, Method, adaptation, adapted_layers, check_layers
from trainables.adapters.families import Blocks

PREFIX: Final = "peft."
TARGETS: Final[dict[str, tuple[str, ...]]] = {
    "qkv": ("attn.qkv",),
    "qkvo": ("attn.qkv", "attn.proj"),
    "mlp": ("mlp.fc1", "mlp.fc2"),
    "qkvo_mlp": ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
}
_PLAIN: Final = (bool, int, float, str)


@dataclass(frozen=True)
class PeftMethod(Method):
    """The common part of all PEFT tuners; `peft_method` adds the tuner's own fields.

    Attributes:
        targets: Adapted linears, see the table above.
        layers: Adapted blocks: "all", "first-K" or "last-K".
    """

    tuner: ClassVar[str]
    starts_pretrained: ClassVar[bool] = False
    targets: str = "qkv"
    layers: str = "all"

    def __post_init__(self) -> None:
        self.require(self.targets in TARGETS, "targets", f"one of {', '.join(TARGETS)}")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear.

        Raises:
            ValueError: If PEFT rejects the hyperparameters or these linears, or does not build one adapter per linear.
        """
        linears = {
            f"{path}.{target}": cast(nn.Linear, block.get_submodule(target))
            for path, block in blocks.items()
            for target in TARGETS[self.targets]
        }
        seed = int(torch.randint(2**62, (), generator=rng))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(seed)
            try:
                try:
                    tuners = self._tuned(linears)
                except NotImplementedError:  # the tuner reads weights on creation, and on the meta device there are none
                    tuners = self._tuned({path: _blank(linear) for path, linear in linears.items()})
                return {path: PeftLayer(linears[path], tuner) for path, tuner in tuners.items()}
            except (ValueError, TypeError, AttributeError, RuntimeError, AssertionError, ArithmeticError) as error:
                first, linear = next(iter(linears.items()))
                shape = f"{linear.in_features} in, {linear.out_features} out"
                raise ValueError(f"{self.name} does not fit {first} ({shape}) as configured; PEFT says: {error}") from error

    def _config(self, targets: list[str], feedforward: list[str]) -> Any:
        """Return PEFT's configuration.

        Args:
            targets: Paths of the adapted linears, or the ends of their paths.
            feedforward: Those among them whose input IA3 scales; it scales the output of the others.
        """
        kind = _config_class(self.tuner)
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del own["targets"], own["layers"]
        names = {field.name for field in dataclasses.fields(kind)}
        fixed: dict[str, Any] = {"target_modules": targets}
        if "feedforward_modules" in names:
            fixed["feedforward_modules"] = feedforward
        if "progressbar" in names:
            fixed["progressbar"] = False
        if own.get("random_seed", 0) is None:
            fixed["random_seed"] = 0
        return kind(**own | fixed)

    def _tuned(self, linears: Mapping[str, nn.Linear]) -> dict[str, nn.Module]:
        """Return PEFT's layers by path; each holds its linear as `base_layer`."""
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        from peft.tuners.tuners_utils import BaseTunerLayer

        suffixes = list(TARGETS[self.targets])
        config = self._config(suffixes, [suffix for suffix in suffixes if suffix == "mlp.fc2"])
        tree = _tree(linears)
        PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](tree, config, "default")
        tuners = {path: tree.get_submodule(path) for path in linears}
        for path, tuner in tuners.items():
            if not isinstance(tuner, BaseTunerLayer) or vars(tuner)["_modules"].get("base_layer") is not linears[path]:
                raise ValueError(f"it adds no layer to {path}")
        frozen = {id(p) for linear in linears.values() for p in linear.parameters()}
        trained = {id(p) for p in tree.parameters() if p.requires_grad}
        if not trained or trained & frozen:
            raise ValueError("it trains the linears themselves" if trained else "it trains nothing")
        return tuners


@functools.cache
def peft_method(tuner: str) -> type[PeftMethod]:
    """Return the method `peft.<tuner>`.

    Raises:
        ValueError: If PEFT is not installed, has no tuner of this name, or the tuner does not adapt linears.
    """
    kind, name = _config_class(tuner), f"{PREFIX}{tuner}"
    hints, common = typing.get_type_hints(kind), _common_fields()
    knobs: list[tuple[str, str, Any]] = []
    for field in dataclasses.fields(kind):
        types = _types(hints[field.name], field.default)
        if field.name not in common and types:
            knobs.append((field.name, types, dataclasses.field(default=field.default)))
    space = {"name": name, "tuner": tuner, "__module__": __name__}
    made = dataclasses.make_dataclass(f"Peft_{tuner}", knobs, bases=(PeftMethod,), frozen=True, namespace=space)
    return cast("type[PeftMethod]", made)


def _config_class(tuner: str) -> type[Any]:
    """Return PEFT's configuration class of a tuner that adapts linears."""
    try:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
        from peft.tuners.tuners_utils import BaseTuner
    except ImportError as error:
        raise ValueError(
            f"peft.{tuner} needs Hugging Face PEFT, which cannot be imported ({error}); install it: pip install peft"
        ) from error
    known = {kind.value.lower(): kind for kind in PEFT_TYPE_TO_TUNER_MAPPING}
    fitting = {
        name: kind
        for name, kind in known.items()
        if isinstance(made := PEFT_TYPE_TO_TUNER_MAPPING[kind], type)
        and issubclass(made, BaseTuner)
        and "target_modules" in {field.name for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    }
    if tuner not in fitting:
        reason = "is a tuner of PEFT that adapts no linears" if tuner in known else "is not a tuner of PEFT"
        raise ValueError(f"peft.{tuner} {reason}; choose one of {', '.join(sorted(fitting))}")
    return PEFT_TYPE_TO_CONFIG_MAPPING[fitting[tuner]]


def _common_fields() -> set[str]:
    """Return the fields that all PEFT configurations share or that the bridge sets."""
    from peft import PeftConfig

    return {field.name for field in dataclasses.fields(PeftConfig)} | {"target_modules", "layers_to_transform", "layers_pattern"}


def _types(hint: Any, default: Any) -> str:
    """Return the types of a plain field as `method_of` reads them, "int | None"; empty if its default is not plain."""
    if isinstance(default, _PLAIN):
        return type(default).__name__
    if default is not None:
        return ""
    return " | ".join(kind.__name__ for kind in _PLAIN if kind in _leaves(hint)) + " | None" * bool(set(_PLAIN) & _leaves(hint))


def _leaves(hint: Any) -> set[Any]:
    """Return the member types of a union."""
    parts = typing.get_args(hint)
    is_union = NoneType in parts or typing.get_origin(hint) is typing.Union
    return set().union(*map(_leaves, parts)) if is_union else {hint}


def _tree(linears: Mapping[str, nn.Linear]) -> nn.Module:
    """Build a module that holds only the linears, under their paths."""
    tree = nn.Module()
    for path, linear in linears.items():
        parent = tree
        *parents, name = path.split(".")
        for part in parents:
            if part not in vars(parent)["_modules"]:
                parent.add_module(part, nn.Module())
            parent = cast(nn.Module, getattr(parent, part))
        parent.add_module(name, linear)
    return tree


def _blank(linear: nn.Linear) -> nn.Linear:
    """Build a zero linear of the same shape on the CPU; its weight takes the memory of one number."""
    blank = nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
    blank.weight = nn.Parameter(torch.zeros(()).expand_as(blank.weight))
    if linear.bias is not None:
        blank.bias = nn.Parameter(torch.zeros(linear.out_features))
    return blank


class PeftLayer(Layer):
    """A frozen linear with PEFT's layer."""

    def __init__(self, base: nn.Linear, tuner: nn.Module) -> None:
        super().__init__(base)
        del tuner.base_layer  # the linear belongs to `base`; PEFT's layer reads it as an attribute that is not a child module
        vars(tuner)["base_layer"] = base
        self.tuner = tuner.to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, ..., in) to (batch, ..., out); PEFT's layers see (batch, tokens, in)."""
        tokens = x.flatten(1, -2) if x.dim() > 3 else x
        y: Tensor = self.tuner(tokens)
        return y.view(*x.shape[:-1], -1)

    @property
    def unmergeable(self) -> str | None:  # type: ignore[override]
        """The reason why no linear computes this layer; None if f(a) + f(b) = f(a + b) + f(0) for random tokens a and b."""
        weight = self.linear.weight
        a, b = torch.randn(2, 3, 4, self.linear.in_features, generator=torch.Generator().manual_seed(0)).to(weight)
        fa, fb, fab, f0 = (self._settled(x) for x in (a, b, a + b, torch.zeros_like(a)))
        error = (fa + fb - fab - f0).abs().max() / fab.abs().max()
        return None if error < 1e-4 else "its update is not linear in its input, so that no weight computes it"

    def adapted_weight(self) -> Tensor:
        """Return the layer's outputs for the unit vectors, minus that for zero, (out, in)."""
        weight = self.linear.weight
        units = torch.eye(self.linear.in_features, device=weight.device, dtype=weight.dtype)
        return (self._settled(units[None])[0] - self._zero_becomes()).T

    def adapted_bias(self) -> Tensor | None:
        """Return the layer's output for zero, (out,)."""
        bias = self._zero_becomes()
        return None if self.linear.bias is None and not bias.any() else bias

    def _zero_becomes(self) -> Tensor:
        return self._settled(self.linear.weight.new_zeros(1, 1, self.linear.in_features))[0, 0]

    @torch.no_grad()
    def _settled(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, in) to (batch, tokens, out), without dropout."""
        training = self.tuner.training
        try:
            return cast(Tensor, self.tuner.eval()(x))
        finally:
            self.tuner.train(training)


# -- files that PEFT loads ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PeftModelFiles:
    """The files of a model of PEFT.

    Attributes:
        folder: Folder of the files.
        name: Name of the backbone, which PEFT's configuration states.
        head: Path of the classifier, which they hold.
    """

    folder: Path
    name: str
    head: str


def save_native(model: nn.Module, plain: nn.Module, files: PeftModelFiles, images: Tensor) -> Tensor | None:
    """Write a model that a tuner of PEFT adapts as PEFT does, and load it again.

    Args:
        model: Adapted model.
        plain: The model before it was adapted, with the trained classifier.
        files: Files to write.
        images: Normalised images.

    Returns:
        The logits of the images by the model that PEFT has loaded; None if PEFT cannot build the adapter on the plain model, whose
        linears have other names while it is adapted (EVA-02).
    """
    import peft

    layers = dict(adapted_layers(model))
    present = {path for path, _ in plain.named_modules()}
    if not layers.keys() <= present:
        return None
    method = cast(PeftMethod, cast(Adaptation, adaptation(model)).method)
    config = method._config(list(layers), [path for path in layers if path.endswith("mlp.fc2")])
    config.modules_to_save, config.base_model_name_or_path = [files.head], files.name
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(copy.deepcopy(plain), config)
        try:
            for path, layer in layers.items():
                made.get_base_model().get_submodule(path).load_state_dict(cast(PeftLayer, layer).tuner.state_dict(), strict=False)
        except RuntimeError:  # another shape: PEFT shares tensors between stages that have their own here
            return None
        made.save_pretrained(str(files.folder))
        (files.folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card
        found: Tensor = load_native(copy.deepcopy(plain), files.folder).eval()(images)
    return found


def load_native(plain: nn.Module, folder: Path) -> nn.Module:
    """Load files of `save_native` as PEFT's model of a plain one with a classifier.

    Raises:
        ValueError: If PEFT is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            f"{folder} holds a tuner of Hugging Face PEFT, which cannot be imported ({error}): pip install peft"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return cast(nn.Module, peft.PeftModel.from_pretrained(plain, str(folder)))
