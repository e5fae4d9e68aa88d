"""Reading a study file (a path, a packaged name or a mapping), with overrides; it reports every problem at once, with its line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import spaces
from search import costs
from search.config.explaining import explained
from search.config.own_methods import OwnMethod, resolve, stored_methods
from search.config.protocols import followed
from search.config.study_file import ANCHOR, StudyFile
from search.config.yaml_text import KeyPath, assign, parse
from search.errors import StudyFileError
from search.storage import object_store

PACKAGED = resources.files("search") / "studies"
SCHEMA = resources.files("search") / "study.schema.json"  # of study files, for editors
DEFAULT = "emoji"  # what `paretune run` without a file runs


def load(source: str | Path | None, overrides: Sequence[str] = (), storage: str | Path | None = None) -> StudyFile:
    """Read a study file.

    Args:
        source: Path, name of a packaged study, or None for the packaged study `emoji`.
        overrides: Assignments `a.b=value` of the command line, with values in YAML.
        storage: Replacement of the file's storage. If it is a folder and the file names an object store, the folder is for the
            driver's own files.

    Raises:
        StudyFileError: If anything is wrong; the message lists every problem with file, line and dotted path.
    """
    name = DEFAULT if source is None else str(source)
    try:
        text = _find(name).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        known = ", ".join(packaged_names())
        raise StudyFileError(f"{name}: neither a file nor a packaged study of that name exists (packaged: {known})") from None
    except UnicodeDecodeError as error:
        raise StudyFileError(f"{name}: is no UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise StudyFileError(f"{name}: cannot be read ({error})") from None
    raw, lines = parse(text, name)
    raw = {key: value for key, value in raw.items() if not key.startswith("x-")}  # a place for anchors, as in Docker's files
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
    file = _check(raw, name, sources, folder=Path(name).parent)
    file = file.with_lines({".".join(path): place for path, place in sources.items()}).with_protocols_keys(added)
    return file if storage is None else file.model_copy(update={"storage": Path(storage)})


def check(raw: Mapping[str, Any], name: str = "study", *, folder: Path = Path()) -> StudyFile:
    """Validate a study that the user gives as a mapping, also a resolved one.

    Args:
        raw: Content of the file.
        name: Prefix of each line of the error.
        folder: Folder against which paths of methods are resolved.

    Raises:
        StudyFileError: If anything is wrong; the message lists every problem.
    """
    completed, added = followed(raw, name)
    return _check(completed, name, {}, folder=folder, stored=True).with_protocols_keys(added)


def check_request(raw: Mapping[str, Any]) -> StudyFile:
    """Validate a resolved study file that a ledger holds as a request: no code of a method runs, and no protocol is followed."""
    return _check(raw, "study", {}, stored=True, run_code=False)


def check_stored(raw: Mapping[str, Any]) -> StudyFile:
    """Validate the study file that a ledger holds. Its space is unchanged, because the study continues as it began."""
    return _check(raw, "study", {}, typed=False, stored=True, run_code=False)


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


def packaged_copy(name: str) -> str:
    """Return the file of a packaged study for another folder: its schema, which editors read, is that of this installation.

    Raises:
        StudyFileError: If there is no packaged study of that name.
    """
    return packaged_text(name).replace("# yaml-language-server: $schema=../study.schema.json", schema_line(), 1)


def schema_line() -> str:
    """Return the first line of a study file, with which editors find the schema of this installation.

    The line ends at the first space for them, so a path with one is written as an address.
    """
    path = str(SCHEMA)
    return f"# yaml-language-server: $schema={Path(path).as_uri() if any(map(str.isspace, path)) else path}"


def _find(name: str) -> Path | Traversable:
    packaged = PACKAGED / f"{name}.yaml"
    return packaged if "/" not in name and not name.endswith((".yaml", ".yml")) and packaged.is_file() else Path(name)


def _check(
    raw: Mapping[str, Any],
    name: str,
    sources: Mapping[KeyPath, str],
    *,
    folder: Path = Path(),
    typed: bool = True,
    stored: bool = False,
    run_code: bool = True,
) -> StudyFile:
    """Validate everything, and raise one error that lists every problem in the order of the file.

    Args:
        raw: Content of the file.
        name: Prefix of each line of the error that has no line.
        sources: Place of each key.
        folder: Folder against which paths of methods are resolved.
        typed: True to give values of the space the types of their knobs.
        stored: True for a file that may hold methods of the user as data.
        run_code: True for a file that the user gave; False for one of a ledger, which runs no code.
    """
    raw, shared, problems = _kept(raw)
    raw, own = _with_own(raw, folder, problems, stored=stored, run_code=run_code)
    known = {method.name: method.space for method in own.values()}
    unusable = bool(problems) and problems[-1][0][0] == "methods"
    if typed:
        raw = _typed(raw, problems, known)
    file: StudyFile | None = None
    try:
        file = StudyFile.model_validate(raw)
        file = file.kept_in(file.storage, shared).with_own(own)
    except ValidationError as error:
        found = [explained(dict(e)) for e in error.errors()]
        first = dict(reversed(found))  # a union has one error for each of its types
        problems += sorted(first.items(), key=found.index)
    overrides, told = raw.get("space"), {path for path, _ in problems}
    if isinstance(overrides, Mapping):
        overrides = {key: value for key, value in overrides.items() if ("space", key) not in told}
    problems += [] if unusable else _space_problems(raw.get("methods"), overrides, known)
    if problems or file is None:
        order = {path: n for n, path in enumerate(sources)}
        problems.sort(key=lambda problem: order.get(_nearest(problem[0], sources), len(order)))
        raise StudyFileError(
            "\n".join(f"{sources.get(_nearest(path, sources), name)}: {'.'.join(path)}: {text}" for path, text in problems)
        )
    wrong = list(costs.problems(file.objectives, file.budget.limits))
    clipped = file.recipe.clip_norm if isinstance(file.recipe.clip_norm, dict) else {}
    unknown = (spaces.unknown_method(method, known) for method in clipped)
    wrong += [(("recipe", "clip_norm"), problem) for problem in unknown if problem is not None]
    if wrong:
        raise StudyFileError("\n".join(f"{sources.get(_nearest(p, sources), name)}: {'.'.join(p)}: {text}" for p, text in wrong))
    try:
        file.points()
    except ValueError as error:
        raise StudyFileError(f"{sources.get(_nearest(('search', 'points'), sources), name)}: {error}") from None
    return file


def _with_own(
    raw: Mapping[str, Any], folder: Path, problems: list[tuple[KeyPath, str]], *, stored: bool, run_code: bool
) -> tuple[Mapping[str, Any], Mapping[str, OwnMethod]]:
    """Return the file with names for the methods that the user brought, and these methods; add to `problems` those without use."""
    own: dict[str, OwnMethod] = {}
    if stored and "method_files" in raw:
        try:
            own = {method.name: method for method in stored_methods(raw)}
        except ValueError as error:
            problems.append((("method_files",), str(error)))
        raw = {key: value for key, value in raw.items() if key != "method_files"}
    methods = raw.get("methods")
    if not run_code or not isinstance(methods, list | tuple):
        return raw, own
    names, own, found = resolve(methods, folder, own)
    problems += [(("methods", str(n)), problem) for n, problem in found.items()]
    return {**raw, "methods": names}, own


def _typed(raw: Mapping[str, Any], problems: list[tuple[KeyPath, str]], own: Mapping[str, spaces.Space]) -> Mapping[str, Any]:
    """Return the file with values in its space that have the types of their knobs; add to `problems` those that have others."""
    methods, overrides = raw.get("methods"), raw.get("space")
    if not isinstance(overrides, Mapping) or not isinstance(methods, list | tuple):
        return raw
    known = spaces.joint([*(m for m in methods if isinstance(m, str) and spaces.unknown_method(m, own) is None), ANCHOR], own)
    overrides = known.expanded(overrides)
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


def _space_problems(methods: object, overrides: object, own: Mapping[str, spaces.Space]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the problems with names of methods and with the values of their knobs."""
    names = [m for m in methods if isinstance(m, str)] if isinstance(methods, list | tuple) else []
    for n, method in enumerate(names):
        if (problem := spaces.unknown_method(method, own)) is not None:
            yield ("methods", str(n)), problem
    if isinstance(overrides, Mapping):
        known = spaces.joint([*(m for m in names if spaces.unknown_method(m, own) is None), ANCHOR], own)
        for key, problem in known.problems(overrides).items():
            other = str(key).rpartition(".")[0]
            if other in names and spaces.unknown_method(other, own) is not None:
                continue  # reported above
            absent = (
                other not in names
                and spaces.unknown_method(other, own) is None
                and key in {k.key for k in spaces.space_of(other, own).knobs}
            )
            mend = f"is a knob of {other}, which is not among the methods; add {other} to them, or delete this line"
            yield ("space", key), mend if absent else problem
