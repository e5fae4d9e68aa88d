"""The redirection of the libraries' logs and output to the study's log file, never to the terminal."""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO, cast

from search.secret import HidingFormatter, HidingStream

LARGEST = 16 * 2**20  # bytes of a study's log, of which there are at most two
_LIBRARIES = ("optuna", "mlflow", "alembic", "timm", "torch", "PIL", "matplotlib", "py.warnings")
_LOGGERS = (*_LIBRARIES, "ray", "search", "trainables", "cluster")


@contextmanager
def held() -> Iterator[None]:
    """Keep the libraries' warnings off the terminal; `logged_to` writes those of before it, and receives the later ones."""
    with _redirected(_LIBRARIES, logging.handlers.MemoryHandler(1_000_000, logging.CRITICAL + 1, flushOnClose=False)):
        yield


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Redirect the libraries' logs and output to a file. Progress still reaches the terminal: its console has the old stream."""
    handler = _StudyLog(path)
    handler.setFormatter(HidingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for waiting in logging.getLogger("py.warnings").handlers:
        if isinstance(waiting, logging.handlers.MemoryHandler):
            waiting.setTarget(handler)
            waiting.flush()
            waiting.setTarget(None)
    with _redirected(_LOGGERS, handler):
        printed = cast(IO[str], HidingStream(_Printed(handler)))
        with redirect_stdout(printed), redirect_stderr(printed):
            for ours in ("search", "cluster"):
                logging.getLogger(ours).setLevel(logging.INFO)
            yield


class _StudyLog(logging.handlers.WatchedFileHandler):
    """A log file that is renamed to `NAME.1`, in place of an older one, when it is large."""

    def reopenIfNeeded(self) -> None:  # noqa: N802 - logging's name
        """Begin a new file if the present one is large, or was moved away."""
        with suppress(OSError):
            if os.path.getsize(self.baseFilename) >= LARGEST:
                os.replace(self.baseFilename, f"{self.baseFilename}.1")
        super().reopenIfNeeded()


class _Printed(io.TextIOBase):
    """A text stream that writes into a log file."""

    def __init__(self, log: _StudyLog) -> None:
        self._log = log

    def write(self, text: str) -> int:
        """Write a text as it is."""
        self._log.acquire()
        try:
            if self._log.stream is not None:  # a library's thread may print after the end
                self._log.reopenIfNeeded()
                self._log.stream.write(text)
                self._log.stream.flush()
        finally:
            self._log.release()
        return len(text)

    def fileno(self) -> int:
        """Return the descriptor of the present file."""
        if self._log.stream is None:
            raise io.UnsupportedOperation("the log is closed")
        return self._log.stream.fileno()


@contextmanager
def _redirected(names: Sequence[str], handler: logging.Handler) -> Iterator[None]:
    """Let a handler receive the warnings and these loggers' records, and nothing else."""
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    shown = warnings.showwarning
    logging.captureWarnings(True)
    captured_here = warnings.showwarning is not shown
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        if captured_here:
            logging.captureWarnings(False)
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate, logger.level = handlers, propagate, level
        handler.close()
