"""Loggers: whoever else is told of a run, beside its own files. They never stop a run.

The group `logger` offers `none` (this file), `csv` (csv.py) and `wandb` (wandb_logger.py). A logger is a class with the
four methods of `Logger`; `told` calls them on rank 0 alone and turns whatever goes wrong in them into one warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from refexp.distributed import place
from refexp.errors import RankFailed, first_line
from refexp.outcome import Outcome
from refexp.progress import watched

log = logging.getLogger(__name__)

State = Literal["completed", "failed", "stopped"]


class Logger(Protocol):
    """What a logger offers; any method may raise, none may wait for long."""

    def start(self, config: dict[str, Any], output: Path) -> None:
        """A run begins: its resolved configuration, and the folder of its files, which exists."""

    def progress(self, stage: str, done: int, total: int, rate: float) -> None:
        """Of the work called `stage`, `done` items of `total` are done, `rate` a second; every few seconds."""

    def results(self, outcome: Outcome) -> None:
        """What came of the run; its files are on disk."""

    def finish(self, state: State) -> None:
        """The run ends; not every run has results."""


class NoLogger:
    """Results stay in the run's folder, and nobody else is told."""

    def start(self, config: dict[str, Any], output: Path) -> None: ...

    def progress(self, stage: str, done: int, total: int, rate: float) -> None: ...

    def results(self, outcome: Outcome) -> None: ...

    def finish(self, state: State) -> None: ...


@contextmanager
def told(logger: Logger, config: dict[str, Any], output: Path) -> Iterator[Logger]:
    """Tell `logger` of the run in this block: its start, its progress and how it ended; the results tell yourself.

    Rank 0 alone tells. What goes wrong in a logger is said in one warning, after which it is left alone; the block
    never sees it.
    """
    if place().rank > 0:
        yield NoLogger()
        return
    guarded = Guarded(logger)
    guarded.start(config, output)
    state: State = "failed"
    try:
        with watched(guarded.progress):
            yield guarded
        state = "completed"
    except (SystemExit, KeyboardInterrupt):
        state = "stopped"
        raise
    finally:
        guarded.finish(state)


class Guarded:
    """A logger whose first failure is its last: it is warned of once and then left alone."""

    def __init__(self, logger: Logger) -> None:
        self.logger: Logger | None = logger

    def start(self, config: dict[str, Any], output: Path) -> None:
        self._call("start", config, output)

    def progress(self, stage: str, done: int, total: int, rate: float) -> None:
        self._call("progress", stage, done, total, rate)

    def results(self, outcome: Outcome) -> None:
        self._call("results", outcome)

    def finish(self, state: State) -> None:
        self._call("finish", state)

    def _call(self, method: str, *arguments: Any) -> None:
        if self.logger is None:
            return
        try:
            getattr(self.logger, method)(*arguments)
        except RankFailed:  # raised into whatever this thread was doing: it is the run's, not the logger's
            raise
        except Exception as error:
            name, self.logger = type(self.logger).__name__, None
            log.warning("%s failed and is left alone; the run's files are complete: %s", name, first_line(error))


def overall(metrics: dict[str, float | None]) -> dict[str, float | None]:
    """The numbers that are not of a single class: `bbox/nAP`, but not `bbox/nAP/cat`."""
    return {name: value for name, value in metrics.items() if name.count("/") < 2}


def per_class(outcome: Outcome) -> tuple[list[str], list[list[Any]]]:
    """Column names and a row a class: its name, how many references it had, and its numbers (None: no instance)."""
    found = [name.split("/", 2) for name in outcome.metrics if name.count("/") >= 2]
    numbers = list(dict.fromkeys(f"{kind}/{number}" for kind, number, _ in found))
    rows = [
        [name, len(references), *(outcome.metrics.get(f"{number}/{name}") for number in numbers)]
        for name, references in zip(outcome.data.classes, outcome.references, strict=True)
    ]
    return ["class", "references", *numbers], rows
