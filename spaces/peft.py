"""The search spaces of Hugging Face PEFT's tuners, read from the source code of the installed PEFT. PEFT itself is not imported.

A tuner of PEFT is the method `peft.<tuner>`. Each plain field of its configuration class (`peft/tuners/<tuner>/config.py`) is a
knob of the same name, with PEFT's default and meaning. The two tables below define the searched values, by field name or for
one tuner; every other field stays at its default until a study names it. Reading the sources, as a syntax tree that is never
run, takes milliseconds; importing PEFT would load torch and transformers.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob, Value
from spaces.shared import layers
from spaces.space import Space

PREFIX = "peft."
REMEDY = "install it: pip install peft"

_PROMPT = "it is a prompt method: it adds tokens to a language model and adapts no linear"
REFUSED = {
    "adalora": "its ranks follow a schedule that the training loop must drive at every step",
    "adaption_prompt": _PROMPT,
    "cartridge": _PROMPT,
    "cpt": _PROMPT,
    "ln_tuning": "it trains layer norms, and the bridge adapts linears; layer_norm trains them",
    "multitask_prompt_tuning": _PROMPT,
    "p_tuning": _PROMPT,
    "poly": "it needs the number of a task for each image",
    "prefix_tuning": _PROMPT,
    "prompt_tuning": _PROMPT,
    "shadow": "it trains a second transformer next to a language model",
    "trainable_tokens": "it trains rows of a table of token embeddings, which a Vision Transformer does not have",
    "xlora": "it mixes adapters that were trained before",
}

# field -> (factors that its default is multiplied by, unit)
SCALED: dict[str, tuple[tuple[float, ...], str]] = {
    "r": ((1 / 4, 1 / 2, 1, 2), "dimensions"),
    r"(\w*lora_|psoft_)?alpha": ((1 / 4, 1, 4), "r times the factor of the update"),
    "scaling": ((1 / 4, 1, 4), "factor"),
    "delora_lambda": ((1 / 4, 1, 4), "norm"),
    "n_frequency": ((1 / 4, 1 / 2, 1), "coefficients"),
    "oft_block_size": ((1 / 4, 1 / 2, 1, 2), "elements"),
    "block_size": ((1 / 16, 1 / 8, 1 / 4, 1 / 2, 1), "elements"),
    "group_size": ((1 / 4, 1 / 2, 1), "elements"),
}
# tuner.field, or a field of any tuner -> (its values, unit)
CHOSEN: dict[str, tuple[tuple[Value, ...], str]] = {
    r"\w+\.\w*dropout": ((0.0, 0.1), "probability"),
    r"boft\.boft_block_size": ((2, 4, 8), "elements"),
    r"boft\.boft_n_butterfly_factor": ((1, 2), "factors"),
    r"deft\.decomposition_method": (("relu", "qr"), ""),
    r"frod\.sparse_rate": ((0.001, 0.01, 0.1), "fraction of the entries"),
    r"glora\.config_A_B": (("lora", "vector", "constant", "none"), ""),
    r"gralora\.gralora_k": ((2, 4), "blocks a side"),
    r"hra\.apply_GS": ((False, True), ""),
    r"lily\.num_B": ((2, 4, 8), "matrices"),
    r"lily\.stride_A": ((1, 2, 4), "blocks"),
    r"lokr\.decompose_factor": ((-1, 4, 8), "rows of the small factor, -1 for near the square root"),
    r"lora\.use_dora": ((False, True), ""),
    r"osf\.effective_rank": ((None, 0.25, 0.75), "fraction of the singular directions that stay frozen, none for a half"),
    r"p?vera\.d_initial": ((0.01, 0.1), "initial value"),
    r"road\.variant": (("road_1", "road_2", "road_4"), ""),
    r"supertuning\.sparsity": ((0.9, 0.99, 0.999), "fraction of the entries"),
    r"tinylora\.u": ((16, 64, 256), "elements"),
    r"tinylora\.weight_tying": ((0.0, 1.0), "fraction of the linears"),
    r"unilora\.theta_d_length": ((64, 256, 1024), "elements"),
    r"vblora\.num_vectors": ((64, 256), "vectors"),
    r"vblora\.vector_length": ((16, 32, 64, 256), "elements"),
}
# fields that are not hyperparameters of an adapter on frozen linears of a timm model
PLUMBING = (
    r"\w*_modules|modules_to_save|bias|fan_in_fan_out|layers_\w+|init(_\w+)?_weights|save_\w+|\w*seed|\w*prng_key|progressbar|"
    r"runtime_\w+|megatron_\w+|ensure_weight_tying|use_effective_conv2d|\w*qalora\w*|use_asa|asa_\w+|\w+_warmup|mask_interval"
)


def installed() -> bool:
    """Return whether PEFT is installed."""
    return _tuners_folder() is not None


def tuners() -> list[str]:
    """Return the methods of PEFT, `peft.lora` and so on; none if it is not installed."""
    folder = _tuners_folder()
    names = [] if folder is None else sorted(path.parent.name for path in folder.glob("*/config.py"))
    return [PREFIX + name for name in names if name not in REFUSED]


def problem(method: str) -> str | None:
    """Return why a study cannot use `peft.<tuner>`, with the remedy; None if it can."""
    tuner = method.removeprefix(PREFIX)
    if tuner in REFUSED:
        return f"{method}: PEFT's {tuner} does not fit a Vision Transformer: {REFUSED[tuner]}"
    if not installed():
        return f"{method}: needs Hugging Face PEFT, which is not installed; {REMEDY}"
    if method not in (known := tuners()):
        near = difflib.get_close_matches(method, known, n=1, cutoff=0.4)
        return (
            f"{method}: no such tuner in PEFT {version('peft')}; "
            + (f"did you mean {near[0]}? " if near else "")
            + (f"There are {', '.join(known)}")
        )
    return None


@functools.cache
def space(method: str) -> Space:
    """Return the space of `peft.<tuner>`.

    Raises:
        ValueError: If a study cannot use the tuner; the message is `problem(method)`.
    """
    if (reason := problem(method)) is not None:
        raise ValueError(reason)
    tuner = method.removeprefix(PREFIX)
    knobs = (
        Knob(
            f"{method}.targets",
            CategoricalDistribution(("qkv", "qkvo", "mlp", "qkvo_mlp")),
            default="qkv",
            meaning="Which linears of a block are adapted; q, k and v are one, as in timm.",
            unit="",
            source="Paretune's: PEFT leaves it to the user",
        ),
        layers(method),
    )
    return Space(method, (*knobs, *_read(tuner)))


def _tuners_folder() -> Path | None:
    found = find_spec("peft")
    if found is None or found.origin is None:  # a plain folder of that name has no origin
        return None
    return Path(found.origin).parent / "tuners"


def _read(tuner: str) -> Iterator[Knob]:
    """Yield the plain fields of the tuner's configuration class as knobs, in PEFT's order."""
    folder = _tuners_folder()
    assert folder is not None  # noqa: S101 - checked by `space`
    path = folder / tuner / "config.py"
    classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    own = next(node for node in reversed(classes) if node.name.lower() == f"{tuner.replace('_', '')}config")
    for node in own.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or re.fullmatch(PLUMBING, node.target.id):
            continue
        found = _default_and_help(node.value)
        if found is None:
            continue
        name, (default, help_) = node.target.id, found
        values, unit = _values(tuner, name, default)
        if default is None and not values:
            continue
        searched = (
            f"default PEFT's, values {'around it ' if values else ''}Paretune's" if values else "PEFT's default, not searched"
        )
        yield Knob(
            f"{PREFIX}{tuner}.{name}",
            CategoricalDistribution(values or (default,)),
            default=default,
            meaning=_sentence(help_ or f"PEFT's `{name}`"),
            unit=unit,
            source=f"PEFT {version('peft')}, {own.name}: {searched}",
        )


def _default_and_help(value: ast.expr | None) -> tuple[Value, str] | None:
    """Return default and help of `= 8` or `= field(default=8, metadata={"help": ...})`; None if the default is not plain."""
    if value is None:
        return None
    parts = {part.arg: part.value for part in value.keywords} if isinstance(value, ast.Call) else {"default": value}
    try:
        default = ast.literal_eval(parts["default"])
    except (KeyError, ValueError):
        return None
    if default is not None and not isinstance(default, bool | int | float | str):
        return None
    try:
        return default, str(ast.literal_eval(parts["metadata"])["help"])
    except (KeyError, ValueError, TypeError):
        return default, ""


def _values(tuner: str, name: str, default: Value) -> tuple[tuple[Value, ...], str]:
    """Return the searched values of a field, including its default, and their unit; no values if it is not searched."""
    for pattern, (values, unit) in CHOSEN.items():
        if re.fullmatch(pattern, f"{tuner}.{name}"):
            return (values if default in values else (*values, default)), unit
    for pattern, (factors, unit) in SCALED.items():
        if re.fullmatch(pattern, name) and isinstance(default, int | float) and default > 0:
            scaled = [type(default)(default * factor) for factor in factors]
            return tuple(dict.fromkeys(value for value in scaled if value > 0)), unit
    return (), ""


def _sentence(text: str) -> str:
    """Return the first sentence of a help text, on one line."""
    line = re.sub(r"<[^>]*>", "", " ".join(text.split()))
    first = re.split(r"(?<=[a-z0-9)`'])\. ", line, maxsplit=1)[0]
    return first.rstrip(". ") + "."
