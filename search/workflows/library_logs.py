"""The redirection of the libraries' logs and output to the study's log file, never to the terminal."""

from __future__ import annotations

import logging
import logging.handlers
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, cast

from search.secret import HidingFormatter, HidingStream

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
    handler = logging.handlers.WatchedFileHandler(path)
    handler.setFormatter(HidingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for waiting in logging.getLogger("py.warnings").handlers:
        if isinstance(waiting, logging.handlers.MemoryHandler):
            waiting.setTarget(handler)
            waiting.flush()
            waiting.setTarget(None)
    with _redirected(_LOGGERS, handler), path.open("a", buffering=1) as file:
        printed = cast(IO[str], HidingStream(file))
        with redirect_stdout(printed), redirect_stderr(printed):
            for ours in ("search", "cluster"):
                logging.getLogger(ours).setLevel(logging.INFO)
            yield


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
