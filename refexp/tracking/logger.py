"""Loggers: whoever else is told of a run, beside the person at the terminal. They read its folder, and never stop it.

The group `logger` offers `none` (this file), `csv` (csv.py) and `wandb` (wandb.py). One of your own is a class with the
two methods of `Logger`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refexp.errors import first_line
from refexp.folders.record import RunRecord
from refexp.machine.ranks import place

log = logging.getLogger(__name__)


class Logger:
    """A reader of run folders; this one (logger=none) reads nothing.

    Rank 0 alone calls it. A method that raises is warned of once, and the logger is then left alone.
    """

    def start(self, folder: Path) -> None:
        """A run begins in this folder, whose status.json says where and since when; it may be followed from here on."""

    def finish(self, folder: Path) -> None:
        """The run has ended as status.json says, and is shown. Only a completed one has metrics.json."""


@contextmanager
def reading(logger: Logger, folder: Path) -> Iterator[None]:
    """Let `logger` read a run's folder: from now on, and once more when the block ends, however it does."""
    if place().rank > 0:
        yield
        return
    started = attempt(logger.start, folder)
    try:
        yield
    finally:
        if started:
            attempt(logger.finish, folder)


def attempt(method: Any, folder: Path) -> bool:
    """Whether a logger's method went well; what went wrong is said in one warning."""
    try:
        method(folder)
    except Exception as error:
        name = type(method.__self__).__name__
        log.warning("%s failed and is left alone; the run's files are complete: %s", name, first_line(error))
        return False
    return True


def per_class(record: RunRecord) -> tuple[list[str], list[list[Any]]]:
    """Column names and a row a class: its name, how many references it had, and its numbers (None: no instance)."""
    numbers = {f"{kind}/{name}": of for kind, names in record.metrics.per_class.items() for name, of in names.items()}
    rows = [
        [name, record.references[name], *(by_class.get(name) for by_class in numbers.values())]
        for name in record.classes
    ]
    return ["class", "references", *numbers], rows
