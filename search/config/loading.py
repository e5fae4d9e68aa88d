"""Reading a study file (a path, a packaged name or a mapping), with overrides; it reports every problem at once, with its line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

import spaces
from search import costs
from search.config.protocols import followed
from search.config.sections import DATA_KINDS
from search.config.study_file import ANCHOR, StudyFile
from search.config.yaml_text import KeyPath, assign, parse
from search.errors import StudyFileError
from search.storage import object_store

PACKAGED = resources.files("search") / "studies"


def load(source: str | Path | None, overrides: Sequence[str] = (), storage: str | Path | None = None) -> StudyFile:
    """Read a study file.

    Args:
        source: Path, name of a packaged study, or None for the packaged digits study.
        overrides: Assignments `a.b=value` of the command line, with values in YAML.
        storage: Replacement of the file's storage. If it is a folder and the file names an object store, the folder is for the
            driver's own files.

    Raises:
        StudyFileError: If anything is wrong; the message lists every problem with file, line and dotted path.
    """
    name = "digits" if source is None else str(source)
    try:
        text = _find(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        known = ", ".join(packaged_names())
        raise StudyFileError(f"{name}: neither a file nor a packaged study of that name exists (packaged: {known})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{name}: cannot be read ({error})") from None
    raw, lines = parse(text, name)
    sources = {path: f"{name}:{line}" for path, line in lines.items()}
    for assignment in overrides:
        path = assign(raw, assignment)
        secret = path in (("ledger",), ("storage",))  # an address may contain a password by mistake
        label = f"--set {path[0]}" if secret else f"--set {assignment}"
        sources |= {path[: n + 1]: label for n in range(len(path)) if path[: n + 1] not in sources} | {path: label}
    if storage is not None and object_store.is_address(str(storage)):
        raw, sources, storage = raw | {"storage": storage}, sources | {("storage",): "--storage"}, None
    told = sources.get(("protocol",), name)
    raw, added = followed(raw, told)
    sources |= dict.fromkeys(added, f"{told}: protocol {raw.get('protocol')}")
    file = _check(raw, name, sources)
    file = file.with_lines({".".join(path): place for path, place in sources.items()}).with_protocols_keys(added)
    return file if storage is None else file.model_copy(update={"storage": Path(storage)})


def check(raw: Mapping[str, Any], name: str = "study", *, resolved: bool = False) -> StudyFile:
    """Validate a study given as a mapping.

    Args:
        raw: Study file.
        name: Prefix of each line of the error.
        resolved: True for a file that already contains what its protocol sets.

    Raises:
        StudyFileError: If anything is wrong; the message lists every problem.
    """
    if resolved:
        return _check(raw, name, {})
    completed, added = followed(raw, name)
    return _check(completed, name, {}).with_protocols_keys(added)


def check_stored(raw: Mapping[str, Any]) -> StudyFile:
    """Validate the study file that a ledger holds. Its space is unchanged, because the study continues as it began."""
    return _check(raw, "study", {}, typed=False)


def packaged_names() -> list[str]:
    """Return the names of the packaged studies."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def packaged_text(name: str) -> str:
    """Return the file of a packaged study, with its comments.

    Raises:
        StudyFileError: If there is no packaged study of that name.
    """
    if name not in packaged_names():
        raise StudyFileError(f"{name}: no packaged study of that name; choose one of {', '.join(packaged_names())}")
    return (PACKAGED / f"{name}.yaml").read_text()


def _find(name: str) -> Path | Traversable:
    packaged = PACKAGED / f"{name}.yaml"
    return packaged if "/" not in name and not name.endswith((".yaml", ".yml")) and packaged.is_file() else Path(name)


def _check(raw: Mapping[str, Any], name: str, sources: Mapping[KeyPath, str], *, typed: bool = True) -> StudyFile:
    """Validate everything, and raise one error that lists every problem in the order of the file."""
    raw, shared, problems = _kept(raw)
    if typed:
        raw = _typed(raw, problems)
    file: StudyFile | None = None
    try:
        file = StudyFile.model_validate(raw)
        file = file.kept_in(file.storage, shared)
    except ValidationError as error:
        explained = [_explained(dict(e)) for e in error.errors()]
        first = dict(reversed(explained))  # a union has one error for each of its types
        problems += sorted(first.items(), key=explained.index)
    overrides, told = raw.get("space"), {path for path, _ in problems}
    if isinstance(overrides, Mapping):
        overrides = {key: value for key, value in overrides.items() if ("space", key) not in told}
    problems += _space_problems(raw.get("methods"), overrides)
    if problems or file is None:
        order = {path: n for n, path in enumerate(sources)}
        problems.sort(key=lambda problem: order.get(_nearest(problem[0], sources), len(order)))
        raise StudyFileError(
            "\n".join(f"{sources.get(_nearest(path, sources), name)}: {'.'.join(path)}: {text}" for path, text in problems)
        )
    found = list(costs.problems(file.objectives, file.budget.limits))
    if found:
        raise StudyFileError("\n".join(f"{sources.get(_nearest(p, sources), name)}: {'.'.join(p)}: {text}" for p, text in found))
    try:
        file.points()
    except ValueError as error:
        raise StudyFileError(f"{sources.get(_nearest(('search', 'points'), sources), name)}: {error}") from None
    return file


def _typed(raw: Mapping[str, Any], problems: list[tuple[KeyPath, str]]) -> Mapping[str, Any]:
    """Return the file with values in its space that have the types of their knobs; add to `problems` those that have others."""
    methods, overrides = raw.get("methods"), raw.get("space")
    if not isinstance(overrides, Mapping) or not isinstance(methods, list | tuple):
        return raw
    known = spaces.joint([*(m for m in methods if isinstance(m, str) and spaces.unknown_method(m) is None), ANCHOR])
    values, found = known.typed(overrides)
    problems += [(("space", key), problem) for key, problem in found.items()]
    return {**raw, "space": {key: values.get(key, value) for key, value in overrides.items()}}


def _kept(raw: Mapping[str, Any]) -> tuple[Mapping[str, Any], str | None, list[tuple[KeyPath, str]]]:
    """Resolve `storage` and `ledger` into the checkpoint location (may be shared) and the driver's folder and ledger.

        storage         ledger            checkpoints    ledger, log, pictures
        a folder        null              the folder     the folder
        a folder        postgresql://     the folder     the server; the folder
        a folder        another folder    the folder     the other folder
        s3://...        a folder          the store      the folder
        s3://...        postgresql://     the store      the server; the default storage, or --storage

    Returns:
        The file with `storage` as the driver's folder and `ledger` as a server's address or null, the location of the checkpoints
        if it is a different one, and the problems.
    """
    storage, ledger = raw.get("storage"), raw.get("ledger")
    kept, shared = dict(raw), None
    if object_store.is_address(storage):
        del kept["storage"]
        try:
            shared = object_store.check_address(str(storage))
        except ValueError as error:
            return {**kept, "ledger": None}, None, [(("storage",), str(error))]
        if not object_store.is_address(shared):
            kept["storage"], shared = shared, None
        elif ledger is None:
            problem = (
                "an object store can hold checkpoints but no ledger; set the ledger's location: `ledger: FOLDER` (on a disk of the "
                "machine where the driver runs) or `ledger: postgresql://...`"
            )
            return kept, None, [(("storage",), problem)]
    if isinstance(ledger, str) and ledger and not object_store.is_address(ledger):
        folder = kept.get("storage", StudyFile.model_fields["storage"].default)
        if shared is None and isinstance(folder, str | Path) and Path(folder) != Path(ledger):
            shared = str(Path(folder).expanduser().absolute())
        kept |= {"storage": ledger, "ledger": None}
    return kept, shared, []


def _nearest(path: KeyPath, sources: Mapping[KeyPath, str]) -> KeyPath:
    """Return the nearest key with a line: the key itself, or the section around it (a missing key has no line)."""
    while path and path not in sources:
        path = path[:-1]
    return path


def _space_problems(methods: object, overrides: object) -> Iterator[tuple[KeyPath, str]]:
    """Yield the problems with names of methods and with the values of their knobs."""
    names = [m for m in methods if isinstance(m, str)] if isinstance(methods, list | tuple) else []
    for n, method in enumerate(names):
        if (problem := spaces.unknown_method(method)) is not None:
            yield ("methods", str(n)), problem
    if isinstance(overrides, Mapping):
        known = spaces.joint([*(m for m in names if spaces.unknown_method(m) is None), ANCHOR])
        for key, problem in known.problems(overrides).items():
            other = str(key).rpartition(".")[0]
            if other in names and spaces.unknown_method(other) is not None:
                continue  # reported above
            absent = (
                other not in names and spaces.unknown_method(other) is None and key in {k.key for k in spaces.space_of(other).knobs}
            )
            mend = f"is a knob of {other}, which is not among the methods; add {other} to them, or delete this line"
            yield ("space", key), mend if absent else problem


def _explained(error: dict[str, Any]) -> tuple[KeyPath, str]:
    """Convert one of pydantic's errors into (path, problem and remedy)."""
    path, kind = _place(error["loc"]), error["type"]
    if kind == "extra_forbidden":
        keys = _keys(tuple(str(part) for part in error["loc"][:-1]))  # with the kind of the data
        near = difflib.get_close_matches(path[-1], keys, n=1)
        return path, "no such key" + (f"; did you mean {near[0]}?" if near else f"; the keys are {', '.join(keys)}" if keys else "")
    if kind == "value_error":
        message = str(error["msg"]).removeprefix("Value error, ")
    elif kind == "missing" and path not in _LISTS:
        return path, "is missing, but required"
    elif (law := _LAWS.get(path)) is not None:
        message = law
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        path, message = (*path, "kind"), f"must be one of {', '.join(DATA_KINDS)}"
        if isinstance(given := error["input"].get("kind"), str):
            near = difflib.get_close_matches(given, DATA_KINDS, n=1)
            return path, f"{message} (got {given!r})" + (f"; did you mean {near[0]}?" if near else "")
        error = {**error, "input": given}
    else:
        told = {"keys": ", ".join(_keys(path)), **error.get("ctx", {})}
        message = _TYPES[kind].format_map(told) if kind in _TYPES else str(error["msg"])
    if path == ("ledger",):
        return path, message  # the value may contain a password
    return path, f"{message} (got {_shortened(error['input'])})"


def _place(loc: Sequence[str | int]) -> KeyPath:
    """Return the key of a pydantic error, without pydantic's names for parts of a union and for elements of a list with a law."""
    path: KeyPath = ()
    for part in loc:
        if path in _LISTS or path in _UNIONS:
            break
        if not (path == ("data",) and part in DATA_KINDS):
            path = (*path, str(part))
    return path


_UNIONS = (("resources", "gpus_per_trial"), ("resources", "memory_per_trial"), ("resources", "prefix_cache"))
_LISTS = (("methods",), ("objectives",), ("search", "points"), ("search", "learn_from"))
# The laws of keys that the sentences of the types below do not state
_LAWS: dict[KeyPath, str] = {
    ("study",): "must be a name of 1 to 64 letters, digits, - and _ that begins with a letter or digit; quote a number",
    ("methods",): "must be a list of methods, at least one: [lora, lily]",
    ("objectives",): "must be a pair [val/top1, COST]; COST is adapter_params or another cost (docs/study-file.md)",
    ("resources", "gpus_per_trial"): "must be auto, a share of one GPU between 0 and 1, or a whole number of GPUs",
    ("resources", "memory_per_trial"): "must be auto, or a size as 4GiB, 500MiB or a number of bytes",
    ("resources", "prefix_cache"): "must be auto, off, or a size as 4GiB, 500MiB or a number of bytes",
    ("resources", "accelerator_type"): "must be the label of Ray for a type of GPU, as H100, A100 or L4, or null for any",
    ("budget", "max_hours"): "must be a number of hours above 0 (1.5 for 1:30), or null for no limit",
    ("budget", "until"): "must be a moment as 2026-12-24T18:00, or null",
    ("search", "rungs"): "must be null, or a section with some of the keys grace, factor, epsilon, promote: {grace: 5, factor: 3}",
    ("search", "points"): "must be a list of configurations: [{method: lora, lora.rank: 8}]",
    ("search", "learn_from"): "must be a list of folders of studies: [studies/first]",
    ("backbone", "img_size"): "must be one whole number of pixels, the side of a square, or null for the backbone's own",
    ("backbone", "weights"): "must be null, random, or the path of a file; quote a number",
}
_TYPES: dict[str, str] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a section with keys, not a single value or a list",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number, without a unit or quotes",
    "float_type": "must be a number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number, without a unit or quotes",
    "int_parsing_size": "is too large",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be one of {expected}",
    "model_attributes_type": "must be a section with the key kind and others, not a single value or a list",
    "model_type": "must be a section with some of the keys {keys}; not a single value or a list",
    "path_type": "must be a path; quote a number",
    "string_type": "must be text; quote a number",
    "tuple_type": "must be a list",
}


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(path: KeyPath) -> list[str]:
    """Return the allowed keys of a section of a study file."""
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
