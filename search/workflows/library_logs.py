"""The redirection of the libraries' logs and output to the study's log file while a study runs."""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import IO, cast

from search.secret import HidingFormatter, HidingStream

_LOGGERS = ("ray", "optuna", "mlflow", "alembic", "timm", "matplotlib", "py.warnings", "search", "trainables", "cluster")


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Redirect the libraries' logs and output to a file. Progress still reaches the terminal: its console has the old stream."""
    handler = logging.handlers.WatchedFileHandler(path)
    handler.setFormatter(HidingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    logging.captureWarnings(True)
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    logging.getLogger("search").setLevel(logging.INFO)
    try:
        with path.open("a", buffering=1) as file:
            printed = cast(IO[str], HidingStream(file))
            with redirect_stdout(printed), redirect_stderr(printed):
                yield
    finally:
        logging.captureWarnings(False)
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate, logger.level = handlers, propagate, level
        handler.close()
