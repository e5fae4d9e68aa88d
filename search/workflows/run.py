"""The workflow of a search, from the study file to the front, which connects study, back end and recorder.

Its steps are: find the study; refuse requests that would fail later; start the back end while a thread examines images and model;
create or open the study; drive it; wait for the recorder.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import yaml

from search.backends.base import BackEnd
from search.backends.choose import make_back_end
from search.config.data_sections import Images
from search.config.study_file import StudyFile
from search.errors import RequestError
from search.results.saved_study import SavedStudy, load
from search.results.study_state import StudyState
from search.results.views import write_views
from search.storage.facts import TrialMemory
from search.storage.whole_file import write_whole
from search.study.extension import Extension
from search.study.opening import Opening, find_study
from search.study.study import Study
from search.study.user_requests import has_waiting
from search.tracking.mlflow_client import tracking_uri
from search.tracking.permissions import refuse_without_rights
from search.tracking.recorder import RecorderProcess
from search.tracking.sync import is_behind
from search.workflows import preflight
from search.workflows.export_adapter import keep_adapters
from search.workflows.library_logs import logged_to
from search.workflows.preflight import Preflight

Watch = Callable[[Study, str, Callable[[], str | None]], AbstractContextManager[None]]  # like `search.cli.progress.Progress`
_log = logging.getLogger(__name__)
PATIENCE = 30.0  # seconds that a finished search waits for MLflow (10,000 trials take 22 s); `paretune sync` catches up
_RECORDED_WHEN_CUT = 5.0  # seconds that an interrupted search waits for the recorder, which then finishes alone


def run(
    file: StudyFile,
    *,
    opening: Opening | None = None,
    extension: Extension | None = None,
    back_end: str | BackEnd = "ray",
    n_cpus: int | None = None,
    n_slots: int | None = None,
    watch: Watch | None = None,
    on_decoded: Callable[[int, int], None] | None = None,
    on_tried: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = _log.warning,
) -> SavedStudy:
    """Create a study or resume it, and drive it to its end. A finished study is left unchanged.

    Args:
        file: Study file of the study.
        opening: Result of `find_study`; None to call it here.
        extension: Extension of the study. If the command is repeated, it extends the study again.
        back_end: Back end or its name: `ray` (warm actors, as many trials at once as fit) or `in-process` (one after the other, in
            this process).
        n_cpus: Cores that an embedded Ray may use; None for all.
        n_slots: Maximum number of trials at once; None for as many as fit.
        watch: Function that returns the context in which progress is shown.
        on_decoded: Callback that receives (decoded images, images) while images are decoded for the first time on this machine.
        on_tried: Callback that receives (tried models, all models) while a new study's first image passes through its methods.
        say: Callback for problems that the user should know although the search succeeded (MLflow is behind).

    Returns:
        The study at the end.

    Raises:
        StudyFileError: If the study was created from another file.
        LedgerError: If another driver runs it, or its ledger cannot be used.
        RequestError: If the backbone, data, resources or checkpoint location are unavailable, MLflow denies access, or the
            extension would shrink the budget.
    """
    driver = make_back_end(back_end, n_cpus=n_cpus, n_slots=n_slots) if isinstance(back_end, str) else back_end
    opening = find_study(file) if opening is None else opening
    ledger, uri = opening.location.ledger_path, tracking_uri(file.storage)
    recorder = RecorderProcess(ledger, uri, head_start=driver.recorder_delay)
    finished = opening.saved is not None and opening.saved.state is StudyState.FINISHED and not opening.data_moved
    if finished and opening.saved is not None and not extension and not has_waiting(file.folder):
        if not is_behind(ledger, uri):
            return load(file.folder)
        recorder.start()
        return _recorded(recorder, file.folder, say)
    preflight.refuse_unwritable(file)
    threads = ThreadPoolExecutor(2, "paretune-import")
    try:
        connection = driver.connect(file)
        allowed = threads.submit(refuse_without_rights, uri, file.study)  # waits for MLflow's answer in the background
        examined = threads.submit(preflight.examine, opening, driver, on_decoded, on_tried, say)  # imports torch while Ray starts
        with connection:
            driver.check(file)
            with file.naming_lines():
                known = examined.result()
                memory = preflight.measure_memory(opening, driver, known, say)
                allowed.result()
                study = _open(opening, known, memory)
            if extension:
                _extend(study, extension)
            with logged_to(file.log):
                if known.skipped:
                    _log.info(preflight.describe_skipped(known.skipped, most=None))
                _drive(study, driver, watch, recorder)
    except BaseException:
        recorder.leave(_RECORDED_WHEN_CUT)
        raise
    finally:
        threads.shutdown(wait=False)  # an interrupted command does not wait for imports
    return _recorded(recorder, file.folder, say)


def _open(opening: Opening, known: Preflight, memory: TrialMemory | None) -> Study:
    """Create the study or open it. A storage that cannot be written is refused before anything runs."""
    file = opening.file
    try:
        if not opening.is_new:
            study = Study.open(file, known.sizes, opening=opening)
            if known.pinned is not None and (opening.data_moved or study.row.facts.pinned is None):
                study.pin(known.pinned)
                _keep_listing(study)
            return study
        study = Study.create(
            file,
            known.sizes,
            precision=known.precision,
            memory=memory,
            pinned=known.pinned,
            n_validation=known.n_validation,
            opening=opening,
        )
        _keep_listing(study)
        (file.folder / "study.yaml").write_text(yaml.safe_dump(file.written(), sort_keys=False))
    except OSError as error:
        raise RequestError(
            f"storage: {file.folder} cannot be written ({error.strerror or error}); free space, change its permissions, or use "
            "another storage"
        ) from error
    return study


def _keep_listing(study: Study) -> None:
    """Keep the listing of the data set in the study's folder; it only serves to name what has changed."""
    from trainables import save_listing

    if isinstance(study.file.data, Images):
        data = study.file.worker(study.row.facts)["data"]
        write_whole(study.file.listing_path, lambda draft: save_listing(data, draft))


def _extend(study: Study, extension: Extension) -> None:
    try:
        study.extend(extension)
    except (ValueError, RequestError) as error:
        study.close()
        raise RequestError(str(error)) from error


def _drive(study: Study, back_end: BackEnd, watch: Watch | None, recorder: RecorderProcess) -> None:
    """Drive an open study and record it. The recorder continues until it has plotted and sent everything."""
    began = time.monotonic()
    try:
        capacity = back_end.capacity(study)
        _log.info("study %s: %d trials known, %s, %s", study.file.study, len(study.trials), capacity.words, _versions())
        recorder.start()
        with watch(study, capacity.words, capacity.waits) if watch else nullcontext(), study.heartbeat():
            back_end.run(study)
        _keep_adapters(study)
        study.leave()
    except BaseException as error:
        study.leave(error)
        raise
    finally:
        study.close()
        recorder.close()
        _log.info(
            "study %s left with %d trials; its recorder blocked it for %.4f s of %.1f s",
            study.file.study,
            len(study.trials),
            recorder.blocked_seconds,
            time.monotonic() - began,
        )


def _keep_adapters(study: Study) -> None:
    """Export the front's adapters. If that fails (missing weights, a full disk), the search has still succeeded."""
    try:
        keep_adapters(load(study.file.folder))
    except Exception as error:
        _log.warning("the front's adapters were not exported with the study (%s); `paretune export-adapter` writes them", error)


def _recorded(recorder: RecorderProcess, folder: Path, say: Callable[[str], None]) -> SavedStudy:
    """Wait for the recorder and return the study."""
    problem = recorder.stop(timeout=PATIENCE)
    study = load(folder)
    if problem is not None:
        say(problem)
        write_views(study)  # the recorder may not have written them
    return study


def _versions() -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in ("paretune", "torch", "timm", "ray", "optuna", "mlflow"))
