"""The study file: one question, written in YAML, checked in full before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PrivateAttr, field_validator, model_validator

import spaces
from search import costs, metrics, names
from search.config.data_sections import (
    DATA_KINDS,
    Ade20k,
    Digits,
    Emoji,
    Fgvc,
    ImageFolder,
    Images,
    Masks,
    Parquet,
    Scenes,
    Synthetic,
    Voc,
    Vtab,
    WithMasks,
)
from search.config.own_methods import OwnMethod
from search.config.sections import Backbone, Budget, Recipe, Resources, Search, Section
from search.errors import RequestError, StudyFileError
from search.metrics import MIOU, TOP1
from search.storage.address import check_server
from search.storage.facts import Facts

CONFIRM = 0.1  # share of the budget for further runs of a study with folds; see benchmarks/results/choice.md
ANCHOR = "head_only"  # always runs first, for any choice of methods


class StudyFile(Section):
    """One question: one backbone, one data set, one joint space, one budget. See docs/study-file.md."""

    study: str = Field(pattern=names.PATTERN)
    protocol: str | None = None  # for information: the other keys contain what it sets, see `search.config.protocols`
    task: Literal["classification", "segmentation"] = "classification"
    backbone: Backbone = Backbone()
    data: Annotated[
        Digits | Emoji | ImageFolder | Vtab | Fgvc | Parquet | Masks | Voc | Ade20k | Scenes | Synthetic,
        Field(discriminator="kind"),
    ]
    methods: tuple[str, ...] = Field(min_length=1)
    space: dict[str, Any] = Field(default_factory=dict)
    objectives: tuple[str, str] = (TOP1, "adapter_params")
    recipe: Recipe = Recipe()
    budget: Budget
    search: Search = Search()
    resources: Resources = Resources()
    storage: Path = Path("paretune-studies")  # of the driver; see `search.config.loading._kept` for the file's storage and ledger
    ledger: Annotated[str, AfterValidator(check_server)] | None = None  # a PostgreSQL database; null: a file in the storage
    _own: Mapping[str, OwnMethod] = PrivateAttr(default_factory=dict)  # methods that the user brought, by name
    _shared: str | None = PrivateAttr(None)
    _protocols_keys: Sequence[tuple[str, str]] = PrivateAttr(())
    _lines: Mapping[str, str] = PrivateAttr(default_factory=dict)  # the place of each dotted key that was written: s.yaml:3

    @model_validator(mode="before")
    @classmethod
    def _the_metric_of_the_task(cls, raw: Any) -> Any:
        """Judge segmentation by mean IoU unless the file says otherwise."""
        if isinstance(raw, Mapping) and raw.get("task") == metrics.SEGMENTATION and "objectives" not in raw:
            return {**raw, "objectives": (MIOU, costs.ADAPTER_PARAMS)}
        return raw

    @field_validator("objectives")
    @classmethod
    def _a_metric_against_a_cost(cls, objectives: tuple[str, str]) -> tuple[str, str]:
        found = (metrics.unknown(objectives[0]), costs.unknown(objectives[1]))
        if problems := [problem for problem in found if problem is not None]:
            raise ValueError("; ".join(problems))
        return objectives

    @model_validator(mode="after")
    def _data_of_the_task(self) -> StudyFile:
        kinds = [kind for kind, section in DATA_KINDS.items() if issubclass(section, (WithMasks, Scenes))]
        if (self.task == metrics.SEGMENTATION) != (self.data.kind in kinds):
            if self.data.kind in kinds:
                raise ValueError(f"task: data.kind {self.data.kind} has masks; write task: segmentation")
            raise ValueError(f"task: segmentation needs data with masks, of data.kind {', '.join(kinds)}; got {self.data.kind}")
        return self

    @property
    def confirm(self) -> float:
        """The share of the budget that is kept for further runs of trials; 0 if each is trained once."""
        if self.budget.confirm is not None:
            return self.budget.confirm
        return 0.0 if self.data.folds is None else CONFIRM

    @property
    def folder(self) -> Path:
        """The folder of this study."""
        return self.storage / self.study

    @property
    def shared(self) -> str | None:
        """The location of all studies' checkpoints if it is not the storage: a path, or the address of an object store."""
        return self._shared

    @property
    def own_methods(self) -> Mapping[str, OwnMethod]:
        """The methods that the user brought, by name."""
        return self._own

    def with_own(self, own: Mapping[str, OwnMethod]) -> StudyFile:
        """Return the same question with methods that the user brought."""
        file = self.model_copy()
        file._own = {name: method for name, method in own.items() if name in self.methods}
        return file

    def kept_in(self, storage: Path, shared: str | None) -> StudyFile:
        """Return the same question with another storage."""
        file = self.model_copy(update={"storage": storage})
        file._shared = shared
        return file

    def with_lines(self, lines: Mapping[str, str]) -> StudyFile:
        """Return the same question, whose errors name the place of a dotted key: `{"budget.epochs": "s.yaml:3"}`."""
        file = self.model_copy()
        file._lines = lines
        return file

    def with_protocols_keys(self, keys: Sequence[tuple[str, str]]) -> StudyFile:
        """Return the same question, which knows which (section, key) came from its protocol."""
        file = self.model_copy()
        file._protocols_keys = tuple(keys)
        return file

    def with_protocol_of(self, stored: StudyFile) -> StudyFile:
        """Return the same question with the values that its protocol had when a study began with it.

        Args:
            stored: Study file that the study's ledger holds.
        """
        if stored.protocol != self.protocol:
            return self
        sections: dict[str, Any] = {"space": dict(self.space)}
        for section, key in self._protocols_keys:
            if section != "space":
                own = sections.get(section, getattr(self, section))
                sections[section] = own.model_copy(update={key: getattr(getattr(stored, section), key)})
            elif key in stored.space:
                sections["space"][key] = stored.space[key]
            else:
                del sections["space"][key]
        return self.model_copy(update=sections)

    @contextmanager
    def naming_lines(self) -> Iterator[None]:
        """Put the place in the file before each line of an error that begins with a key."""
        try:
            yield
        except RequestError as error:
            if type(error) not in (RequestError, StudyFileError):
                raise
            raise type(error)("\n".join(map(self._with_its_line, str(error).splitlines()))) from error

    def _with_its_line(self, message: str) -> str:
        found = re.match(r"[a-z_]+(\.[a-z_][\w.]*\w|(?=:))", message)
        key = found.group() if found else ""
        while key and key not in self._lines:
            key = key.rpartition(".")[0]
        return f"{self._lines[key]}: {message}" if key else message

    def kept_like(self, other: StudyFile) -> StudyFile:
        """Return the same question with the storage and ledger of another study."""
        return self.kept_in(other.storage, other.shared).model_copy(update={"ledger": other.ledger})

    def places(self) -> dict[str, str]:
        """Return `storage` and `ledger` as a study file writes them, unless they are the default or come from `--storage`."""
        if self.shared is None:
            return {} if self.ledger is None else {"ledger": self.ledger}
        return {"storage": self.shared, "ledger": self.ledger or str(self.storage)}

    def joint_space(self, *, with_anchor: bool = False) -> spaces.JointSpace:
        """Return the spaces of the methods with this file's overrides; `with_anchor` also that of head_only."""
        methods = (*self.methods, ANCHOR) if with_anchor and ANCHOR not in self.methods else self.methods
        own = {key: value for key, value in self.space.items() if ANCHOR in methods or not key.startswith(f"{ANCHOR}.")}
        return spaces.joint(methods, {name: method.space for name, method in self._own.items()}).with_overrides(own)

    def points(self) -> list[spaces.Config]:
        """Return the configurations of `search.points`, completed with defaults.

        Raises:
            ValueError: If one is not a point of the space; the message names the first such point.
        """
        space, found = self.joint_space(), []
        for number, point in enumerate(self.search.points):
            method = point.get("method")
            if method not in space.methods:
                raise ValueError(f"search.points[{number}]: its method must be one of {', '.join(space.methods)}, got {method!r}")
            config = space.default(str(method))
            if foreign := [key for key in point if key not in config]:
                raise ValueError(f"search.points[{number}]: {foreign[0]} is not a knob of {method}; it has {', '.join(config)}")
            if not space.holds(config | point):
                wrong = next(key for key in point if not space.holds(config | {key: point[key]}))
                raise ValueError(f"search.points[{number}]: {wrong} = {point[wrong]!r} is not a value in the space")
            found.append(config | point)
        return found

    def costs(self, sizes: costs.Sizes, *, max_params: int) -> costs.Costs:
        """Return the costs that the study uses, with their limits.

        Args:
            sizes: Counts the parameters of configurations.
            max_params: Resolved `budget.max_params`.
        """
        limits = {costs.ADAPTER_PARAMS: float(max_params), **self.budget.limits}
        return costs.Costs(sizes, against=self.objectives[1], limits=limits, n_epochs=self.budget.epochs)

    def worker(self, facts: Facts | None = None) -> dict[str, Any]:
        """Return the arguments of `trainables.make` as plain JSON values; paths are absolute, because workers run elsewhere.

        Args:
            facts: The study's facts, which answer `recipe.precision: auto`; without them it is float32.

        Raises:
            RequestError: If a method is code that the user has not named.
        """
        backbone, data = self.backbone.model_dump(mode="json"), self.data.model_dump(mode="json")
        if backbone["weights"] not in (None, "random"):
            backbone["weights"] = str(Path(backbone["weights"]).expanduser().absolute())
        if isinstance(self.data, Images):
            data |= {"path": str(self.data.path.expanduser().absolute()), "seed": self.search.seed}
            data["watch"] = {name: {"path": str(path.expanduser().absolute())} for name, path in self.data.watch.items()}
        elif self.data.folds is not None:
            data["seed"] = self.search.seed
        if facts is not None:
            data |= self._as_pinned(facts)
            for name, digest in ({} if facts.pinned is None else facts.pinned.watched).items():
                data["watch"][name]["digest"] = digest
            if facts.pinned is not None and facts.pinned.weights is not None:
                backbone["digest"] = facts.pinned.weights
        recipe = self.recipe.model_dump(mode="json") | {"n_threads": self.resources.cpus_per_trial}
        if recipe["precision"] == "auto":
            recipe["precision"] = "float32" if facts is None or facts.precision is None else facts.precision.chosen
        if facts is not None and facts.prefix is not None:
            recipe |= facts.prefix.as_recipe()
        if any(key in costs.LATENCIES for key in (self.objectives[1], *self.budget.limits)):
            recipe["latency"] = True
        if self.objectives[0] != TOP1:
            recipe["metric"] = metrics.METRICS[self.objectives[0]].name
        worker: dict[str, Any] = {"backbone": backbone, "data": data, "recipe": recipe}
        if self._own:
            then = facts.pinned.methods if facts is not None and facts.pinned is not None else {}
            worker["methods"] = [own.as_argument(then.get(name)) for name, own in self._own.items()]
        return worker

    def _as_pinned(self, facts: Facts) -> dict[str, Any]:
        """Return the keys of a data section that hold a study to the images with which it began."""
        if not isinstance(self.data, Images):
            return {}
        if facts.pinned is None:  # it began before there were versions
            return {"rules": 1}
        digest = {} if facts.pinned.data is None else {"digest": facts.pinned.data, "listing": str(self.listing_path.absolute())}
        return {"rules": facts.pinned.rules, **digest}

    @property
    def log(self) -> Path:
        """The study's log."""
        return self.folder / "paretune.log"

    @property
    def listing_path(self) -> Path:
        """The file in which the driver keeps the listing of the data set, to name later what has changed."""
        return self.folder / "data.parquet"

    def resolved(self) -> dict[str, Any]:
        """Return the file with all defaults as plain JSON values; its storage is not part of the question.

        Methods that the user brought are data here, under `method_files`: their sources and spaces, not their code.
        """
        file = self.model_dump(mode="json", exclude={"storage", "ledger"})
        return file | {"method_files": {name: own.as_json() for name, own in self._own.items()}} if self._own else file

    def written(self, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the file with all defaults as a user writes it: methods that the user brought are paths again.

        Args:
            paths: Other paths of such methods, by name.
        """
        known = {name: own.source for name, own in self._own.items() if own.source.endswith(".py")} | dict(paths or {})
        return self.model_dump(mode="json", exclude={"storage", "ledger"}) | {"methods": [known.get(m, m) for m in self.methods]}


# -- checking --------------------------------------------------------------------------------------------------------------------
