"""Loggers: optional sinks for progress and results. They read a run's folder, and their failure never stops the run.

The group `logger` offers `none` (this file), `csv` (csv.py) and `wandb` (wandb.py). To write your own, subclass
`Logger` and override its two methods.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refexp.errors import first_line
from refexp.folders.record import RunRecord
from refexp.rank import this_rank

log = logging.getLogger(__name__)


class Logger:
    """A reader of run folders. This one (logger=none) does nothing.

    Only rank 0 calls it. If a method raises, refexp logs one warning and disables the logger for this run.
    """

    def start(self, folder: Path) -> None:
        """Called when a run starts in this folder. status.json has its host, process and start time; must not block."""

    def finish(self, folder: Path) -> None:
        """Called after the run has ended and its pages are written.

        status.json has the final state. Only a completed run has metrics.json.
        """


@contextmanager
def reading(logger: Logger, folder: Path) -> Iterator[None]:
    """Call `logger.start` now, and `logger.finish` when the block ends, even if it raises."""
    if this_rank().rank > 0:
        yield
        return
    started = attempt(logger.start, folder)
    try:
        yield
    finally:
        if started:
            attempt(logger.finish, folder)


def attempt(method: Any, folder: Path) -> bool:
    """Call a logger's method. Returns False and logs one warning if it raises."""
    try:
        method(folder)
    except Exception as error:
        name = type(method.__self__).__name__
        log.warning(
            "%s failed and is disabled for this run; all files on disk are complete: %s", name, first_line(error)
        )
        return False
    return True


def per_class(record: RunRecord) -> tuple[list[str], list[list[Any]]]:
    """Column names, and one row per class: name, number of references, and metrics (None: no instance)."""
    numbers = {f"{kind}/{name}": of for kind, names in record.metrics.per_class.items() for name, of in names.items()}
    rows = [
        [name, record.references[name], *(by_class.get(name) for by_class in numbers.values())]
        for name in record.classes
    ]
    return ["class", "references", *numbers], rows
