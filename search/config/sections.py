"""The sections of a study file with their validation rules, but for `data` (`search.config.data_sections`).

`search.config.study_file` combines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator, model_validator

from search.config.trial_resources import smallest_gpu_share
from search.costs import unknown
from search.storage.facts import TrialMemory

ENDLESS = 1_000_000  # trials of a study that only hours end: more than any cluster runs at once


def _is_number(annotation: Any) -> bool:
    """Return whether a field is a number, or a union with one: `int | None`."""
    return annotation in (int, float) or any(part in (int, float) for part in get_args(annotation))


class Section(BaseModel):
    """A section of a study file: immutable, without unknown keys and without NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, raw: Any) -> Any:
        """Make words, which are refused, of true and false where a number is needed: pydantic would read them as 1 and 0."""
        if not isinstance(raw, Mapping):
            return raw
        numbers = [key for key, field in cls.model_fields.items() if _is_number(field.annotation)]
        wrong = {key: str(raw[key]).lower() for key in numbers if isinstance(raw.get(key), bool)}
        return {**raw, **wrong} if wrong else raw


class Backbone(Section):
    """The frozen model.

    Attributes:
        name: Name of the model: `vit_emoji` or `vit_glyphs` (packaged), or a timm name.
        weights: Weights: null for the packaged or timm's own, a local file, a folder as `save_pretrained` leaves it, or `random`.
        img_size: Side of the square input in pixels; null for that of the folder's processor, else the model's own.
    """

    name: str = "vit_glyphs"
    weights: str | None = None
    img_size: int | None = Field(default=None, gt=0)


class Recipe(Section):
    """The training settings that are fixed for all trials of a study.

    Attributes:
        optimizer: Optimiser: `adamw`, or `sgd` with momentum 0.9, whose weight decay is part of the gradient.
        decay: Parameters that are decayed: `matrices`, or `all` of them, with biases and norms.
        head_init: Initial weights of the classifier: `trunc_normal` (standard deviation 0.02), `linear` (PyTorch's default),
            `kaiming` (normal, by the number of classes) or `zeros`.
        schedule: Schedule of the learning rate: set at each `step`; or once per epoch as in released scripts: `epoch` (timm's, of
            NOAH, FacT, Lily and SNELL), `epoch_lightning` (of Adapter+) or `epoch_transformers` (of VPT).
        warmup_fraction: Fraction of the epochs with a linearly rising learning rate.
        final_lr_fraction: Last learning rate, divided by the largest.
        final_lr: Last learning rate itself; null for `final_lr_fraction` of the largest.
        label_smoothing: Probability mass moved from the true class to all.
        class_weights: Weights of the classes in the loss: `none`; or `balanced`: an image counts n / (C n_c), for n training images
            of C classes, n_c of which are of its class.
        clip_norm: Largest gradient norm, null for no clipping, or one for some of the methods: `{arc: 1.0}`.
        precision: Precision: `float32`; `bfloat16` in the forward pass except for head and loss; or `auto`: the result of a probe,
            once per study.
        accumulate: Number of parts into which a batch is split and processed one after the other: the same step in less memory.
        compile: True to compile the training pass (torch.compile); it takes up to a minute for each structure of an adapter.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    decay: Literal["matrices", "all"] = "matrices"
    head_init: Literal["trunc_normal", "linear", "kaiming", "zeros"] = "trunc_normal"
    schedule: Literal["step", "epoch", "epoch_lightning", "epoch_transformers"] = "step"
    warmup_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    final_lr_fraction: float = Field(default=0.01, ge=0.0, le=1.0)
    final_lr: float | None = Field(default=None, ge=0.0)
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    class_weights: Literal["none", "balanced"] = "none"
    clip_norm: Annotated[float, Field(gt=0.0)] | dict[str, Annotated[float, Field(gt=0.0)]] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    accumulate: int = Field(default=1, ge=1)
    compile: bool = False


class Budget(Section):
    """The budget of a study.

    Attributes:
        n_trials: Number of configurations to train, including head-only; null for as many as `max_hours` allows.
        epochs: Epochs of a complete trial.
        max_params: Largest allowed adapter, in parameters; null for the backbone's own size.
        limits: Largest allowed values of other costs (`search.costs`): `{cost/gflops: 36, cost/latency_ms: 20}`.
        max_hours: Hours of searching, over all drivers of the study, after which no trial is started; null for no limit. If it is
            given, `auto` and the rungs weigh what a trial adds against its seconds.
        until: Moment after which no trial is started (2026-12-24T18:00, in this machine's time zone unless it names one); or null.
        stall_trials: Number of consecutive complete or pruned trials without a change of the front after which no trial is started;
            null for no limit.
        confirm: Share of the budget that is kept for further runs of trials near the front, on other folds, or from other seeds if
            there are no folds; null: a tenth with folds (`data.folds`), else nothing.
        sure: Probability with which the answer has to hold (`paretune answer`) for the study to end early; null: it does not.
    """

    n_trials: int | None = Field(default=None, gt=0)
    epochs: int = Field(gt=0)
    max_params: int | None = Field(default=None, gt=0)
    limits: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    max_hours: float | None = Field(default=None, gt=0.0)
    until: datetime | None = None
    stall_trials: int | None = Field(default=None, gt=0)
    confirm: float | None = Field(default=None, ge=0.0, le=0.75)
    sure: float | None = Field(default=None, ge=0.5, lt=1.0)

    @model_validator(mode="before")
    @classmethod
    def _one_limit_of_parameters(cls, raw: Any) -> Any:
        """Rewrite `limits: {adapter_params: N}` as `max_params: N`."""
        limits = raw.get("limits") if isinstance(raw, Mapping) else None
        if not isinstance(limits, Mapping) or "adapter_params" not in limits:
            return raw
        if raw.get("max_params") is not None:
            raise ValueError("max_params and limits.adapter_params are the same limit; give only one of them")
        others = {key: value for key, value in limits.items() if key != "adapter_params"}
        return {**raw, "max_params": limits["adapter_params"], "limits": others}

    @model_validator(mode="after")
    def _ends(self) -> Budget:
        if self.n_trials is None and self.max_hours is None:
            raise ValueError("must have n_trials, max_hours or both: the number of trials, and the hours, after which it ends")
        return self

    def trials_left(self, n_searched: int, confirm: float = 0.0) -> int:
        """Return how many of `n_trials` trials are left after so many; a large number if only the hours count.

        Args:
            n_searched: Number of trials that were started.
            confirm: Share that is kept for further runs.
        """
        return ENDLESS if self.n_trials is None else self.n_trials - int(confirm * self.n_trials) - n_searched

    @field_validator("limits")
    @classmethod
    def _of_costs(cls, limits: dict[str, float]) -> dict[str, float]:
        if wrong := [problem for key in limits if (problem := unknown(key)) is not None]:
            raise ValueError("; ".join(wrong))
        return limits

    @field_validator("until", mode="before")
    @classmethod
    def _no_seconds(cls, until: Any) -> Any:
        """Refuse a number, which pydantic reads as seconds since 1970: 20261224 is over."""
        if isinstance(until, int | float):
            raise ValueError("must be a moment as 2026-12-24T18:00, or null")
        return until

    @field_validator("until")
    @classmethod
    def _in_a_time_zone(cls, until: datetime | None) -> datetime | None:
        return None if until is None else until.astimezone()


class RungsSection(Section):
    """The rungs at which a trial is compared and may be stopped; see `search.study.rungs`.

    Attributes:
        grace: Epochs before the first rung.
        factor: Ratio of the epochs of successive rungs; about one trial in `factor` continues beyond a rung.
        epsilon: Accuracy (fraction) by which another trial must be ahead to count as better.
        promote: True to let a stopped trial resume from its checkpoint if `auto` expects more of it than of any new one.
    """

    grace: int = Field(default=5, gt=0)
    factor: int = Field(default=3, ge=2)
    epsilon: float = Field(default=0.005, ge=0.0, lt=1.0)
    promote: bool = True


class Search(Section):
    """The choice of configurations, and the early stopping of trials.

    Attributes:
        sampler: Sampler: `auto`, `tpe`, `nsga2`, `gp`, `random` or `grid`; see `search.samplers`.
        rungs: Rungs at which trials are compared and the worse ones stopped; null to train all to the end.
        points: Configurations to try right after head-only (`auto`), or the papers' defaults (other samplers); missing knobs take
            their default.
        learn_from: Folders of other studies, or their `trials.parquet`: the sampler learns from their complete trials, and the
            members of their fronts are tried after the points.
        prior: File of `paretune learn`, which other data taught: its first configurations are tried after the points, and `auto`
            believes what it says until this study's trials say otherwise. Null for none.
        seed: Root of every random stream of the study.
    """

    sampler: Literal["auto", "tpe", "nsga2", "gp", "random", "grid"] = "auto"
    rungs: RungsSection | None = None
    points: tuple[dict[str, Any], ...] = ()
    learn_from: tuple[Path, ...] = ()
    prior: Path | None = None
    seed: int = Field(default=0, ge=0)


class Resources(Section):
    """The resources of one trial.

    Attributes:
        cpus_per_trial: Cores, and threads, of one trial.
        gpus_per_trial: Number of GPUs, or share of one; 0 trains on the CPU. `auto` measures a few steps of the trial's method when
            the study is created (see `search.config.trial_resources`), and is 0 if no node has a GPU.
        memory_per_trial: Memory reserved for a worker on its node (`4GiB`), so that no more workers start than fit; `auto` measures
            or computes it, see `search.config.trial_resources`.
        prefix_cache: Largest size (`4GiB`) of the files on a machine that hold the output of frozen blocks in front of all trained
            ones, so that it is computed once; `auto`: 2 GiB; `off`: no such files (see docs/cost.md).
        accelerator_type: Accelerator type of the nodes for trials, in Ray's label `ray.io/accelerator-type`: H100, A100, L4; null
            for any.
    """

    cpus_per_trial: int = Field(default=1, gt=0)
    gpus_per_trial: Literal["auto"] | float = 0.0
    memory_per_trial: Literal["auto"] | ByteSize = "auto"
    prefix_cache: Literal["auto", "off"] | ByteSize = "auto"
    accelerator_type: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")

    @field_validator("prefix_cache", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, size: Any) -> Any:
        if size is True:
            raise ValueError("must be auto, off, or a size as 4GiB, 500MiB or a number of bytes")
        return "off" if size is False else size

    @field_validator("gpus_per_trial")
    @classmethod
    def _can_be_given(cls, gpus: float | str) -> float | str:
        if not isinstance(gpus, str) and not (0.0 <= gpus <= 1.0 or gpus == int(gpus) > 0):
            raise ValueError("must be a share of one GPU between 0 and 1, a whole number of GPUs, or auto")
        return gpus

    def of_a_trial(self, measured: TrialMemory | None) -> dict[str, Any]:
        """Return the resources of a trial, as the arguments of `cluster.connect.slots`.

        Args:
            measured: The study's fact `memory`, which answers `auto`; None where it is not known.
        """
        measured = measured or TrialMemory()
        gpus = smallest_gpu_share(self.gpus_per_trial, measured.shares)
        memory = measured.host_bytes if isinstance(self.memory_per_trial, str) else self.memory_per_trial
        named = {"cpus_per_trial": self.cpus_per_trial, "accelerator_type": self.accelerator_type}
        return {**named, "gpus_per_trial": gpus, "memory_per_trial": memory}
