"""The study file: one question, written in YAML, checked whole before anything starts."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, ValidationError, field_validator

import spaces
from search import costs
from search.config.sections import (
    DATA_KINDS,
    Backbone,
    Budget,
    Digits,
    Fgvc,
    ImageFolder,
    Images,
    Parquet,
    Recipe,
    Resources,
    Search,
    Section,
    Synthetic,
    Vtab,
)
from search.config.yaml_text import KeyPath, assign, parse
from search.errors import StudyFileError
from search.storage import checkpoints
from search.storage.address import check_server

PACKAGED = resources.files("search") / "studies"
ANCHOR = "head_only"  # always runs first, whatever the methods


__all__ = [
    "ANCHOR",
    "Budget",
    "Images",
    "StudyFile",
    "StudyFileError",
    "check",
    "load",
    "packaged_names",
    "packaged_text",
]


class StudyFile(Section):
    """One question: one backbone, one data set, one joint space, one budget. DESIGN: ARCHITECTURE.md, "The study file"."""

    study: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    backbone: Backbone = Backbone()
    data: Annotated[Digits | ImageFolder | Vtab | Fgvc | Parquet | Synthetic, Field(discriminator="kind")]
    methods: tuple[str, ...] = Field(min_length=1)
    space: dict[str, Any] = Field(default_factory=dict)
    objectives: tuple[Literal["val/top1"], str] = ("val/top1", "adapter_params")
    recipe: Recipe = Recipe()
    budget: Budget
    search: Search = Search()
    resources: Resources = Resources()
    storage: Path = Path("paretune-studies")  # of the driver; see `_kept` for what may stand here, and under ledger
    ledger: Annotated[str, AfterValidator(check_server)] | None = None  # a PostgreSQL database; null: a file in the storage
    _shared: str | None = PrivateAttr(None)

    @field_validator("objectives")
    @classmethod
    def _against_a_cost(cls, objectives: tuple[str, str]) -> tuple[str, str]:
        if (problem := costs.unknown(objectives[1])) is not None:
            raise ValueError(problem)
        return objectives

    @property
    def folder(self) -> Path:
        """Where everything of this study lies."""
        return self.storage / self.study

    @property
    def shared(self) -> str | None:
        """The place of all studies' checkpoints where that is not the storage: a path, or the address of an object store."""
        return self._shared

    def kept_in(self, storage: Path, shared: str | None) -> StudyFile:
        """The same question, kept elsewhere."""
        file = self.model_copy(update={"storage": storage})
        file._shared = shared
        return file

    def kept_like(self, other: StudyFile) -> StudyFile:
        """The same question, kept where another study is."""
        return self.kept_in(other.storage, other.shared).model_copy(update={"ledger": other.ledger})

    def places(self) -> dict[str, str]:
        """`storage` and `ledger` as a study file says them, where the defaults and `--storage` do not."""
        if self.shared is None:
            return {} if self.ledger is None else {"ledger": self.ledger}
        return {"storage": self.shared, "ledger": self.ledger or str(self.storage)}

    def joint_space(self) -> spaces.JointSpace:
        """The packaged spaces of the methods with the overrides of this file applied."""
        own = {key: value for key, value in self.space.items() if not key.startswith("head_only.")}
        return spaces.joint(self.methods).with_overrides(own)

    def points(self) -> list[spaces.Config]:
        """The configurations of `search.points`, completed.

        Raises:
            ValueError: naming the first one that is no point of the space.
        """
        space, found = self.joint_space(), []
        for number, point in enumerate(self.search.points):
            method = point.get("method")
            if method not in space.methods:
                raise ValueError(f"search.points[{number}]: its method is one of {', '.join(space.methods)}, got {method!r}")
            config = space.default(str(method))
            if foreign := [key for key in point if key not in config]:
                raise ValueError(f"search.points[{number}]: {foreign[0]} is no knob of {method}; it has {', '.join(config)}")
            if not space.holds(config | point):
                wrong = next(key for key in point if not space.holds(config | {key: point[key]}))
                raise ValueError(f"search.points[{number}]: {wrong} = {point[wrong]!r} is not among the values that the space has")
            found.append(config | point)
        return found

    def worker(self, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments of `trainables.make`, as plain JSON values; paths are absolute, because workers run elsewhere.

        Args:
            facts: The study's, which hold what `recipe.precision: auto` came to; without them it is float32.
        """
        backbone, data = self.backbone.model_dump(mode="json"), self.data.model_dump(mode="json")
        if backbone["weights"] not in (None, "random"):
            backbone["weights"] = str(Path(backbone["weights"]).expanduser().absolute())
        if isinstance(self.data, Images):
            data |= {"path": str(self.data.path.expanduser().absolute()), "seed": self.search.seed}
        recipe = self.recipe.model_dump(mode="json") | {"n_threads": self.resources.cpus_per_trial}
        if recipe["precision"] == "auto":
            recipe["precision"] = (facts or {}).get("precision", {}).get("chosen", "float32")
        if any(key in costs.LATENCIES for key in (self.objectives[1], *self.budget.limits)):
            recipe["latency"] = True
        return {"backbone": backbone, "data": data, "recipe": recipe}

    def resolved(self) -> dict[str, Any]:
        """The file with every default written out, as plain JSON values; where it is stored is not part of the question."""
        return self.model_dump(mode="json", exclude={"storage", "ledger"})


def load(source: str | Path | None, overrides: Sequence[str] = (), storage: str | Path | None = None) -> StudyFile:
    """Read a study file.

    Args:
        source: A path, the name of a packaged study, or None for the packaged digits study.
        overrides: `a.b=value` assignments of the command line, the values in YAML.
        storage: What stands for the file's. A folder, where the file names an object store, is where the driver keeps the rest.

    Raises:
        StudyFileError: listing everything that is wrong, each with file, line and dotted path.
    """
    name = "digits" if source is None else str(source)
    try:
        text = _find(name).read_text()
    except FileNotFoundError:
        known = ", ".join(packaged_names())
        raise StudyFileError(f"{name}: there is no such file, nor a packaged study of that name (packaged: {known})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{name}: cannot be read ({error})") from None
    raw, lines = parse(text, name)
    places = {path: f"{name}:{line}" for path, line in lines.items()}
    for assignment in overrides:
        path = assign(raw, assignment)
        secret = path in (("ledger",), ("storage",))  # an address may hold a password, by mistake
        place = f"--set {path[0]}" if secret else f"--set {assignment}"
        places |= {path[: n + 1]: place for n in range(len(path)) if path[: n + 1] not in places} | {path: place}
    if storage is not None and checkpoints.is_address(str(storage)):
        raw, places, storage = raw | {"storage": storage}, places | {("storage",): "--storage"}, None
    file = _check(raw, name, places)
    return file if storage is None else file.model_copy(update={"storage": Path(storage)})


def check(raw: Mapping[str, Any], name: str = "study") -> StudyFile:
    """Validate a study given as a mapping; `name` opens each line of the error."""
    return _check(raw, name, {})


def packaged_names() -> list[str]:
    """The studies that ship with Paretune."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def packaged_text(name: str) -> str:
    """The file of a packaged study, comments and all.

    Raises:
        StudyFileError: if there is none of that name.
    """
    if name not in packaged_names():
        raise StudyFileError(f"{name}: no packaged study of that name; there are {', '.join(packaged_names())}")
    return (PACKAGED / f"{name}.yaml").read_text()


def _find(name: str) -> Path | Traversable:
    packaged = PACKAGED / f"{name}.yaml"
    return packaged if "/" not in name and not name.endswith((".yaml", ".yml")) and packaged.is_file() else Path(name)


# -- checking --------------------------------------------------------------------------------------------------------------------


def _check(raw: Mapping[str, Any], name: str, places: Mapping[KeyPath, str]) -> StudyFile:
    """Validate everything, and raise one error that lists every problem in the order of the file."""
    raw, shared, problems = _kept(raw)
    file: StudyFile | None = None
    try:
        file = StudyFile.model_validate(raw)
        file = file.kept_in(file.storage, shared)
    except ValidationError as error:
        problems += [_explained(dict(e)) for e in error.errors()]
    problems += _space_problems(raw.get("methods"), raw.get("space"))
    if problems or file is None:
        order = {path: n for n, path in enumerate(places)}
        problems.sort(key=lambda problem: order.get(_nearest(problem[0], places), len(order)))
        raise StudyFileError(
            "\n".join(f"{places.get(_nearest(path, places), name)}: {'.'.join(path)}: {text}" for path, text in problems)
        )
    found = list(costs.problems(file.objectives, file.budget.limits))
    if found:
        raise StudyFileError("\n".join(f"{places.get(_nearest(p, places), name)}: {'.'.join(p)}: {text}" for p, text in found))
    try:
        file.points()
    except ValueError as error:
        raise StudyFileError(f"{places.get(_nearest(('search', 'points'), places), name)}: {error}") from None
    return file


def _kept(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None, list[tuple[KeyPath, str]]]:
    """`storage` and `ledger` taken apart: what a machine shares with others, and what the driver keeps on a disk of its own.

        storage         ledger            checkpoints    ledger, log, pictures
        a folder        null              the folder     the folder
        a folder        postgresql://     the folder     the server; the folder
        a folder        another folder    the folder     the other folder
        s3://...        a folder          there          the folder
        s3://...        postgresql://     there          the server; the storage that would be without this line, or --storage

    Returns:
        The file with `storage` as the driver's folder and `ledger` as a server's address or null, the place of the checkpoints if
        it is another one, and what is wrong.
    """
    storage, ledger = raw.get("storage"), raw.get("ledger")
    kept, shared = dict(raw), None
    if checkpoints.is_address(storage):
        del kept["storage"]
        try:
            shared = checkpoints.checked(str(storage))
        except ValueError as error:
            return {**kept, "ledger": None}, None, [(("storage",), str(error))]
        if not checkpoints.is_address(shared):
            kept["storage"], shared = shared, None
        elif ledger is None:
            problem = (
                "an object store can hold checkpoints but no ledger; say where that lies, with `ledger: FOLDER` (on a disk of the "
                "machine where the driver runs) or `ledger: postgresql://...`"
            )
            return kept, None, [(("storage",), problem)]
    if isinstance(ledger, str) and ledger and not checkpoints.is_address(ledger):
        folder = kept.get("storage", StudyFile.model_fields["storage"].default)
        if shared is None and isinstance(folder, str | Path) and Path(folder) != Path(ledger):
            shared = str(Path(folder).expanduser().absolute())
        kept |= {"storage": ledger, "ledger": None}
    return kept, shared, []


def _nearest(path: KeyPath, places: Mapping[KeyPath, str]) -> KeyPath:
    """A key that has a line: this one, or the section around it (a missing key has none)."""
    while path and path not in places:
        path = path[:-1]
    return path


def _space_problems(methods: object, overrides: object) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with the names of methods and with the values given to their knobs."""
    names = [m for m in methods if isinstance(m, str)] if isinstance(methods, list | tuple) else []
    for n, method in enumerate(names):
        if (problem := spaces.unknown_method(method)) is not None:
            yield ("methods", str(n)), problem
    if isinstance(overrides, Mapping):
        known = spaces.joint([*(m for m in names if spaces.unknown_method(m) is None), ANCHOR])
        for key, problem in known.problems(overrides).items():
            other = str(key).rpartition(".")[0]
            if other in names and spaces.unknown_method(other) is not None:
                continue  # told above
            absent = (
                other not in names and spaces.unknown_method(other) is None and key in {k.key for k in spaces.space_of(other).knobs}
            )
            mend = f"is a knob of {other}, which is not among the methods; add {other} to them, or drop this line"
            yield ("space", key), mend if absent else problem


def _explained(error: dict[str, Any]) -> tuple[KeyPath, str]:
    """One of pydantic's errors as (path, what is wrong and what to do)."""
    path = tuple(str(part) for part in error["loc"] if not (part in DATA_KINDS and error["loc"][0] == "data"))
    if error["type"] == "extra_forbidden":
        keys = _keys(tuple(str(part) for part in error["loc"][:-1]))
        near = difflib.get_close_matches(path[-1], keys, n=1)
        return path, "no such key" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(keys)}" if keys else "")
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return path, "is missing; a study needs it"
    if error["type"] == "string_pattern_mismatch" and path == ("study",):
        message = "a study's name has 1 to 64 letters, digits, - and _, and begins with a letter or digit"
    if path == ("ledger",):
        return path, message  # what was given may hold a password
    return path, f"{message} (got {_shortened(error['input'])})"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(path: KeyPath) -> list[str]:
    """The keys that a section of a study file may have."""
    section: Any = StudyFile
    for part in path:
        if section is StudyFile and part == "data":
            continue
        if part in DATA_KINDS:
            section = DATA_KINDS[part]
        else:
            field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
            section = field.annotation if field else None
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
