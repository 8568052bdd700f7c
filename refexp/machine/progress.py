"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere.

Whoever wants to know besides the person at the terminal (status.json) is told through `watched`.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from refexp.machine.ranks import place

log = logging.getLogger(__name__)
T = TypeVar("T")
Watcher = Callable[[str, int, int, float], None]
"""Takes what is worked on, how many items are done, of how many, and items per second."""

LINE_EVERY_SECONDS = 15.0
WORTH_A_LINE_SECONDS = 1.0
TOLD_EVERY_SECONDS = 3.0

_watchers: list[Watcher] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within the block, tell `watcher` how far each piece of work is: every few seconds, and at its end."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` while showing how far the work on them has come: of several ranks, rank 0's share."""
    here = place()
    if here.rank:
        return iter(items)
    items = _told(items, total, what) if _watchers else items
    if here.world_size > 1:
        what = f"{what} (1 of {here.world_size} ranks)"
    return _bar(items, total, what) if sys.stdout.isatty() else _lines(items, total, what)


def _told(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    start = told = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - told >= TOLD_EVERY_SECONDS or done == total:
            told = now
            for watcher in _watchers:
                watcher(what, done, total, done / max(now - start, 1e-9))


def _bar(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    columns = (
        TextColumn(f"{what:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console()) as progress:
        task = progress.add_task(what, total=total, rate="")
        for item in items:
            yield item
            elapsed = progress.tasks[0].elapsed or 0.0
            done = progress.tasks[0].completed + 1
            progress.update(task, advance=1, rate=f"{done / elapsed:.2f}/s" if elapsed else "")


def _lines(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    start = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= LINE_EVERY_SECONDS or (done == total and now - start >= WORTH_A_LINE_SECONDS):
            shown, rate = now, done / max(now - start, 1e-9)
            log.info("%s %d/%d, %.2f/s, %.0f s left", what, done, total, rate, (total - done) / rate)
