"""Running a study from its file to its front: the place where study, back end and record meet."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path

import yaml

from cluster.capacity import FreeSlots, at_a_time
from search.backends.base import BackEnd
from search.config.study_file import StudyFile
from search.errors import RequestError
from search.results.saved_study import SavedStudy, load
from search.results.study_state import StudyState
from search.storage import checkpoints, location
from search.storage.facts import Facts, TrialMemory
from search.study.checks import refuse_changes, refuse_other_place
from search.study.extension import Extension
from search.study.study import Study
from search.study.user_requests import has_waiting
from search.tracking.mlflow_client import tracking_uri
from search.tracking.permissions import refuse_without_rights
from search.tracking.recorder import RecorderProcess
from search.tracking.sync import is_behind
from search.workflows import preflight
from search.workflows.export_adapter import keep_adapters
from search.workflows.preflight import Preflight

Watch = Callable[[Study, str, Callable[[], str | None]], AbstractContextManager[None]]  # as `search.cli.progress.Progress`
_log = logging.getLogger(__name__)
PATIENCE = 30.0  # seconds that a finished search waits for MLflow (10,000 trials take 22 s); `paretune sync` catches up
_IMPORTING = 5.0  # seconds that workers take to import torch; MLflow is imported then
_RECORDED_WHEN_CUT = 5.0  # seconds that an interrupted search waits for MLflow; the next run catches up
_CHATTY = ("ray", "optuna", "mlflow", "alembic", "timm", "matplotlib", "py.warnings", "search", "trainables", "cluster")


def run(
    file: StudyFile,
    *,
    extension: Extension | None = None,
    back_end: BackEnd = "ray",
    n_cpus: int | None = None,
    n_slots: int | None = None,
    watch: Watch | None = None,
    on_decoded: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = _log.warning,
) -> SavedStudy:
    """Make the study, or go on with it, and drive it to its end. A finished study is left as it is.

    Args:
        file: The study file, as the study was made from it.
        extension: What makes the study larger than it is; repeated, it extends again.
        back_end: `ray` (warm actors, as many trials at once as fit) or `in-process` (one after the other, here).
        n_cpus: Cores that an embedded Ray may use; None for all.
        n_slots: Trials at once, at most; None for as many as there is room for, see `cluster.capacity`.
        watch: Makes the context that shows progress.
        on_decoded: Told, while images are decoded for the first time on this machine, how many are done and of how many.
        say: Takes what a person should know although the search went well (MLflow is behind).

    Returns:
        The study as it stands at the end.

    Raises:
        StudyFileError: if the study exists and was made from another file.
        LedgerError: if another driver runs it, or its ledger cannot be used.
        RequestError: if backbone, data, resources or the checkpoints' place are not to be had, MLflow refuses us, or the
            extension would cut the budget.
    """
    place = location.locate_ledger(file.folder, file.study, file.ledger)
    ledger = place.find() or place.path
    recorder = RecorderProcess(ledger, tracking_uri(file.storage), head_start=_IMPORTING if back_end == "ray" else 0.0)
    if ledger.exists():
        saved = load(file.folder)
        refuse_changes(saved.row, file)
        refuse_other_place(saved.row, file)
        if saved.state is StudyState.FINISHED and not extension and not has_waiting(file.folder):
            if is_behind(ledger, tracking_uri(file.storage)):
                recorder.start()
                return _recorded(recorder, file.folder, say)
            return saved
    _refuse_unwritable(file)
    beside = ThreadPoolExecutor(2, "paretune-import")
    try:
        connection = _connected(file, back_end, n_cpus)
        allowed = beside.submit(refuse_without_rights, tracking_uri(file.storage), file.study)  # waits for an answer meanwhile
        measured = beside.submit(
            preflight.measure_before_start, file, back_end, on_decoded, say
        )  # imports torch and more while Ray starts
        with connection:
            _refuse_odd_nodes(file, back_end)
            known = measured.result()
            memory = preflight.measure_memory(file, back_end, known, say)
            allowed.result()
            study = _opened(file, known, memory)
            if extension:
                _extend(study, extension)
            with _logged_to(file.folder / "paretune.log"):
                _search(study, back_end, n_slots, watch, recorder)
    except BaseException:
        recorder.stop(timeout=_RECORDED_WHEN_CUT)
        raise
    finally:
        beside.shutdown(wait=False)  # whoever interrupts does not wait for imports
    return _recorded(recorder, file.folder, say)


def _recorded(recorder: RecorderProcess, folder: Path, say: Callable[[str], None]) -> SavedStudy:
    """The study as it stands, when the record shows it or has said why not."""
    problem = recorder.stop(timeout=PATIENCE)
    study = load(folder)
    if problem is not None:
        say(problem)
        study.write_views()  # the recorder may not have come so far
    return study


def _search(study: Study, back_end: BackEnd, most: int | None, watch: Watch | None, recorder: RecorderProcess) -> None:
    """Drive an open study and record it. The recorder goes on to the end of what it has to draw and to send."""
    began = time.monotonic()
    try:
        drive, n_slots = _back_end(study.file, study.row.facts, back_end, most)
        _log.info("study %s: %d trials known, %s, %s", study.file.study, len(study.trials), at_a_time(n_slots), _versions())
        recorder.start()
        waits = n_slots.waits if isinstance(n_slots, FreeSlots) else lambda: None
        with watch(study, at_a_time(n_slots), waits) if watch else nullcontext(), study.heartbeat():
            drive(study)
        _keep_adapters(study)
    finally:
        study.close()
        recorder.close()
        _log.info(
            "study %s left with %d trials; its recorder held it up for %.4f s of %.1f s",
            study.file.study,
            len(study.trials),
            recorder.blocked_seconds,
            time.monotonic() - began,
        )


def _keep_adapters(study: Study) -> None:
    """Those of the front; whatever hinders that (weights that are not here, a full disk) does not spoil the search."""
    try:
        keep_adapters(load(study.file.folder))
    except Exception as error:
        _log.warning("the front's adapters were not kept beside the study (%s); `paretune export-adapter` writes them", error)


def _opened(file: StudyFile, known: Preflight, memory: TrialMemory | None) -> Study:
    """The study, made or rebuilt. A storage that cannot be written is told before anything runs."""
    try:
        if location.locate_ledger(file.folder, file.study, file.ledger).find() is not None:
            return Study.open(file, known.sizes)
        study = Study.create(file, known.sizes, precision=known.precision, memory=memory)
        (file.folder / "study.yaml").write_text(yaml.safe_dump(file.resolved(), sort_keys=False))
    except OSError as error:
        raise RequestError(
            f"storage: {file.folder} cannot be written ({error.strerror or error}); make room or rights, or choose another"
        ) from error
    return study


def _extend(study: Study, extension: Extension) -> None:
    try:
        study.extend(extension)
    except (ValueError, RequestError) as error:
        study.close()
        raise RequestError(str(error)) from error


def _connected(file: StudyFile, back_end: BackEnd, n_cpus: int | None) -> AbstractContextManager[None]:
    if back_end == "in-process":
        return nullcontext()
    from cluster.connect import connected

    one_each = file.resources.cpus_per_trial == 1 and file.resources.gpus_per_trial == 0  # a trial for every core
    preload = ("trainables.workers.preload",) if one_each and file.data.kind != "synthetic" else ()
    try:
        return connected(n_cpus=n_cpus, preload=preload)
    except ValueError as error:
        raise RequestError(str(error)) from error


def _refuse_odd_nodes(file: StudyFile, back_end: BackEnd) -> None:
    """Every node of a cluster must have our packages and see the same storage: a trial may go on elsewhere. Strangers must not.

    Raises:
        RequestError: naming the nodes that do not, or saying that anyone may give them orders.
    """
    if back_end == "in-process" or "RAY_ADDRESS" not in os.environ:
        return
    from cluster.health import odd_nodes
    from cluster.nodes import refuse_open

    try:
        refuse_open()
        odd = odd_nodes(
            file.storage.absolute() if file.shared is None else checkpoints.impatient(checkpoints.open_folder(file.shared))
        )
    except OSError as error:
        raise RequestError(f"storage: {file.shared or file.storage} cannot be written ({error.strerror})") from error
    except ValueError as error:
        raise RequestError(str(error)) from error
    if odd:
        raise RequestError("\n".join(f"{node.what}: {node.found}; {node.remedy}" for node in odd))


def _refuse_unwritable(file: StudyFile) -> None:
    """Checkpoints that lie elsewhere must be written, from here at least, before anything starts.

    Raises:
        RequestError: saying why they cannot, and the remedy.
    """
    if file.shared is None:
        return
    from cluster.health import storage

    found = storage(checkpoints.impatient(checkpoints.open_folder(file.shared)))
    if not found.good:
        raise RequestError(f"{found.what}: {found.found}; {found.remedy}")


def _back_end(
    file: StudyFile, facts: Facts, back_end: BackEnd, most: int | None
) -> tuple[Callable[[Study], None], int | FreeSlots]:
    """What drives a study, and how many trials it runs at once, or where that is known."""
    if back_end == "in-process":
        from search.backends import in_process
        from trainables import make

        return lambda study: in_process.run(study, make(**file.worker(study.row.facts))), 1
    from cluster.connect import slots
    from search.backends import ray_tune

    takes = file.resources.of_a_trial(facts.memory)
    try:
        n_slots = FreeSlots(takes, most) if "RAY_ADDRESS" in os.environ else min(slots(**takes), most or sys.maxsize)
    except ValueError as error:
        raise RequestError(str(error)) from error
    return lambda study: ray_tune.run(study, n_slots=n_slots), n_slots


def _versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("paretune", "torch", "timm", "ray", "optuna", "mlflow"))


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """What the libraries log and print goes to the study's log file, not to the terminal.

    Progress is shown all the same: its console holds the stream that stood here before.
    """
    handler = logging.handlers.WatchedFileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("search").setLevel(logging.INFO)
    try:
        with path.open("a", buffering=1) as printed, redirect_stdout(printed), redirect_stderr(printed):
            yield
    finally:
        logging.captureWarnings(False)
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate, logger.level = handlers, propagate, level
        handler.close()
