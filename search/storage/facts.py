"""The facts of a study: values that were measured once, when it was created, and stay with it.

Facts are a column of the ledger's `study` table. A resumed study reads them instead of measuring again, so that it continues as it
began, also on another machine. Ledgers of every version hold these keys: a key may be added, none may change its meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from search.errors import LedgerError

__all__ = ["AutoFact", "Facts", "LearnedTrial", "Pinned", "PrecisionFact", "PrefixFact", "TrialMemory", "read_facts"]


class _Stored(BaseModel):
    """A value that the ledger stores as JSON. Unknown keys of a newer Paretune are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    def as_json(self) -> dict[str, Any]:
        """Return the stored form: the keys that were given."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class LearnedTrial(NamedTuple):
    """A complete trial of another study (`search.learn_from`, `search.prior`)."""

    config: dict[str, Any]
    top1: float | None  # score of the first objective; None of a prior's trial, of which only the standing is known
    size: float | None  # second objective, in the unit of this study; None of a prior's trial
    on_front: bool  # True to try it first: it was on the front of its own study, or is one of a prior's first configurations
    standing: float | None = None  # standardised goodness within its own study, if that had other data; None for the same data


class PrecisionFact(_Stored):
    """The answer to `recipe.precision: auto`.

    Attributes:
        chosen: The precision of all trials, `float32` or `bfloat16`.
        why: The reason, in words.
    """

    chosen: str
    why: str = ""


class TrialMemory(_Stored):
    """The memory that a trial takes.

    Attributes:
        host_bytes: Memory of a node that is reserved for a trial.
        peak_bytes: Peak GPU memory by method; empty if none was measured.
        card_bytes: Memory of one GPU; 0 without a GPU.
        shares: Share of a GPU by method, for `gpus_per_trial: auto`.
    """

    host_bytes: int = 0
    peak_bytes: Mapping[str, float] = Field(default_factory=dict)
    card_bytes: float = 0
    shares: Mapping[str, float] = Field(default_factory=dict)


class PrefixFact(_Stored):
    """The places in the backbone where the tokens of training and validation images are kept (docs/cost.md).

    Attributes:
        cuts: The places: k behind the k-th block, and one more than there are blocks in front of the classifier.
        most_bytes: Most bytes of such files on a machine.
        cut_bytes: Bytes of one cut, which a worker holds in memory where no file can be written.
    """

    cuts: tuple[int, ...] = ()
    most_bytes: int = 0
    cut_bytes: int = 0

    def as_recipe(self) -> dict[str, Any]:
        """Return the keys of a worker's recipe."""
        return {"prefix_cuts": list(self.cuts), "prefix_bytes": self.most_bytes}


class Pinned(_Stored):
    """The data, the weights and the users' methods of a study, which are compared whenever they are used again.

    Attributes:
        rules: Version of the rules that say what is a split, a class, or neither (docs/data.md).
        data: Digest of names, sizes and labels of all images; None for data without files.
        weights: Digest of the backbone's weights; None for a synthetic surface.
        methods: Digest of the code of each method that the user brought, by name.
        watched: Digest of each watched data set, by name.
    """

    rules: int
    data: str | None = None
    weights: str | None = None
    methods: Mapping[str, str] = Field(default_factory=dict)
    watched: Mapping[str, str] = Field(default_factory=dict)


class AutoFact(_Stored):
    """The sampler `auto` as it was when the study began.

    Attributes:
        parts: Parts that came after its first version (`search.samplers.base.Part`).
        n_trials: Number of trials of the budget, which its start fits; None if only hours limited it.
    """

    parts: tuple[str, ...] = ()
    n_trials: int | None = None


class Facts(_Stored):
    """The values that were measured once, when a study was created.

    Attributes:
        n_classes: Number of classes of the data set.
        n_validation: Number of validation images; None if it is unknown, or accuracies are exact.
        backbone_params: Number of frozen parameters of the backbone.
        max_params: Largest adapter that the study trains, in parameters.
        reference_point: Reference point of the hypervolume: (score of a guess, largest allowed size); see `search.metrics`.
        learned: Complete trials of other studies, for the sampler.
        precision: Answer to `recipe.precision: auto`; None if it was not configured (float32 then).
        memory: Memory that a trial takes; None if it was not measured or computed.
        checkpoints: Address or folder of the checkpoints; None for the study's own folder.
        prefix: Places where tokens are kept; None for a study that began before, which keeps none of training images, and in which
            stochastic depth and dropout act in blocks that nothing trains, too.
        by_seconds: True if `auto` and the rungs weigh what a trial adds against its seconds: the budget was in hours when the study
            began. A study that began before continues by epochs.
        auto: Parts of `auto` with which the study began; None for a study that began before it had any, which continues without.
        pinned: Data, weights and users' methods of the study; None for a study that began before it was recorded and has had no
            driver since.
    """

    n_classes: int
    n_validation: int | None = None
    backbone_params: int
    max_params: int
    reference_point: tuple[float, float]
    learned: tuple[LearnedTrial, ...] = Field(default=(), alias="learnt")
    precision: PrecisionFact | None = None
    memory: TrialMemory | None = None
    checkpoints: str | None = None
    prefix: PrefixFact | None = None
    by_seconds: bool = False
    auto: AutoFact | None = None
    pinned: Pinned | None = None

    @property
    def gpu_shares(self) -> Mapping[str, float]:
        """The measured shares of a GPU by method; empty if none were measured."""
        return {} if self.memory is None else self.memory.shares


def read_facts(stored: Mapping[str, Any], ledger: str) -> Facts:
    """Validate facts that are read from a ledger.

    Args:
        stored: Column `facts`.
        ledger: Name of the study, for the message.

    Raises:
        LedgerError: If a fact is missing or has a wrong type.
    """
    try:
        return Facts.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "facts"
        raise LedgerError(f"the ledger of {ledger} is damaged: facts.{key}: {first['msg']}; restore it from a copy") from None
