"""The study file: one question, written in YAML, checked whole before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import spaces
from search.errors import RequestError

PACKAGED = resources.files("search") / "studies"


class StudyFileError(RequestError):
    """A study file that cannot be used; the message lists every problem, one per line."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Backbone(_Section):
    """The frozen model.

    Attributes:
        name: `vit_glyphs` (packaged) or a timm name.
        weights: null for the packaged or timm's own weights, a local file, or `random`.
        img_size: Side of the square input in pixels; null for the model's own.
    """

    name: str = "vit_glyphs"
    weights: str | None = None
    img_size: int | None = Field(default=None, gt=0)


class Digits(_Section):
    """scikit-learn's bundled handwritten digits: 200 images to train, 800 to validate, 797 to test."""

    kind: Literal["digits"]


class Synthetic(_Section):
    """No training: a surface with a known front, to try searches without torch (see `trainables.synthetic`).

    Attributes:
        noise: Standard deviation of the accuracy around the surface.
        diverges_above_lr: Learning rates above this end in NaN.
    """

    kind: Literal["synthetic"]
    noise: float = Field(default=0.0, ge=0.0)
    diverges_above_lr: float | None = Field(default=None, gt=0.0)


class Recipe(_Section):
    """What training fixes for all trials of a study.

    Attributes:
        warmup_fraction: Share of the epochs with a linearly rising learning rate.
        label_smoothing: Probability mass moved from the true class to all.
        clip_norm: Largest gradient norm, or null for no clipping.
    """

    warmup_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    clip_norm: float | None = Field(default=None, gt=0.0)


class Budget(_Section):
    """How much the study may spend.

    Attributes:
        n_trials: How many configurations are trained, head-only included.
        epochs: Epochs of a complete trial.
        max_params: Largest adapter that is wanted, in parameters; null for the backbone's own size.
    """

    n_trials: int = Field(gt=0)
    epochs: int = Field(gt=0)
    max_params: int | None = Field(default=None, gt=0)


class Search(_Section):
    """How the next configuration is chosen.

    Attributes:
        sampler: `auto`, `tpe` or `random`.
        seed: Root of every random stream of the study.
    """

    sampler: Literal["auto", "tpe", "random"] = "auto"
    seed: int = Field(default=0, ge=0)


class Resources(_Section):
    """What one trial takes of the machine.

    Attributes:
        cpus_per_trial: Cores, and threads, of one trial.
        gpus_per_trial: Share of a GPU; 0 trains on the CPU.
    """

    cpus_per_trial: int = Field(default=1, gt=0)
    gpus_per_trial: float = Field(default=0.0, ge=0.0)


class StudyFile(_Section):
    """One question: one backbone, one data set, one joint space, one budget. DESIGN: ARCHITECTURE.md, "The study file"."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    backbone: Backbone = Backbone()
    data: Annotated[Digits | Synthetic, Field(discriminator="kind")]
    methods: tuple[str, ...] = Field(min_length=1)
    space: dict[str, Any] = {}
    objectives: tuple[Literal["val/top1"], Literal["adapter_params"]] = ("val/top1", "adapter_params")
    recipe: Recipe = Recipe()
    budget: Budget
    search: Search = Search()
    resources: Resources = Resources()
    storage: Path = Path("paretune-studies")

    @field_validator("methods")
    @classmethod
    def _methods_exist(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        spaces.joint(methods)
        return methods

    @model_validator(mode="after")
    def _space_fits(self) -> StudyFile:
        spaces.joint((*self.methods, "head_only")).with_overrides(self.space)
        return self

    @property
    def folder(self) -> Path:
        """Where everything of this study lies."""
        return self.storage / self.study

    def joint_space(self) -> spaces.JointSpace:
        """The packaged spaces of the methods with the overrides of this file applied."""
        own = {key: value for key, value in self.space.items() if not key.startswith("head_only.")}
        return spaces.joint(self.methods).with_overrides(own)

    def worker(self) -> dict[str, Any]:
        """The arguments of `trainables.make`, as plain JSON values."""
        recipe = self.recipe.model_dump(mode="json") | {"n_threads": self.resources.cpus_per_trial}
        return {"backbone": self.backbone.model_dump(mode="json"), "data": self.data.model_dump(mode="json"), "recipe": recipe}

    def resolved(self) -> dict[str, Any]:
        """The file with every default written out, as plain JSON values; where it is stored is not part of the question."""
        return self.model_dump(mode="json", exclude={"storage"})


def load(source: str | Path | None, overrides: Sequence[str] = ()) -> StudyFile:
    """Read a study file.

    Args:
        source: A path, the name of a packaged study, or None for the packaged digits study.
        overrides: `a.b=value` assignments of the command line, the values in YAML.

    Raises:
        StudyFileError: listing everything that is wrong.
    """
    name = "digits" if source is None else str(source)
    packaged = PACKAGED / f"{name}.yaml"
    path = packaged if "/" not in name and not name.endswith((".yaml", ".yml")) and packaged.is_file() else Path(name)
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        known = ", ".join(packaged_names())
        raise StudyFileError(f"{name}: there is no such file, nor a packaged study of that name (packaged: {known})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{name}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise StudyFileError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise StudyFileError(f"{name}: a study file is a mapping that begins with `study: NAME`")
    for assignment in overrides:
        _assign(raw, assignment)
    return check(raw, name)


def check(raw: Mapping[str, Any], name: str = "study") -> StudyFile:
    """Validate a study given as a mapping; `name` opens each line of the error."""
    try:
        return StudyFile.model_validate(raw)
    except ValidationError as error:
        raise StudyFileError("\n".join(line for e in error.errors() for line in _lines(name, dict(e)))) from None


def packaged_names() -> list[str]:
    """The studies that ship with Paretune."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def _assign(raw: dict[str, Any], assignment: str) -> None:
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise StudyFileError(f"--set {assignment}: an override is written a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyFileError(f"--set {assignment}: the value is not YAML: {' '.join(str(error).split())}") from None
    head, _, rest = path.partition(".")
    if head == "space" and rest:  # keys of the space are dotted themselves: space.lora.rank=8
        raw.setdefault("space", {})[rest] = value
        return
    *sections, last = path.split(".")
    target: Any = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise StudyFileError(f"--set {assignment}: {section} is a plain value and has no parts")
    target[last] = value


def _lines(name: str, error: dict[str, Any]) -> list[str]:
    location = [str(part) for part in error["loc"] if part not in ("digits", "synthetic")]
    dotted = ".".join(location)
    if error["type"] == "extra_forbidden":
        section: Any = StudyFile
        for part in location[:-1]:
            field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
            section = field.annotation if field else None
        keys = list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
        near = difflib.get_close_matches(location[-1], keys, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(keys)}" if keys else ""
        return [f"{name}: {dotted}: no such key{hint}"]
    message = str(error["msg"]).removeprefix("Value error, ")
    where = f"{name}: {dotted}: " if dotted else f"{name}: "
    got = f" (got {error['input']!r})" if error["type"] not in ("missing", "value_error") else ""
    return [f"{where}{line}{got}" for line in message.splitlines()]
