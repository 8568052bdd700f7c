"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from refexp.distributed import place

log = logging.getLogger(__name__)
T = TypeVar("T")

LINE_EVERY_SECONDS = 15.0


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` while showing how far the work on them has come: of several ranks, rank 0's share."""
    here = place()
    if here.rank:
        return iter(items)
    if here.world_size > 1:
        what = f"{what} (1 of {here.world_size} ranks)"
    return _bar(items, total, what) if sys.stdout.isatty() else _lines(items, total, what)


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
        if now - shown >= LINE_EVERY_SECONDS or done == total:
            shown, rate = now, done / max(now - start, 1e-9)
            log.info("%s %d/%d, %.2f/s, %.0f s left", what, done, total, rate, (total - done) / rate)
