"""Progress of long loops: a bar with rate and remaining time on a terminal, and plain log lines elsewhere.

`watched` registers further listeners, such as status.json.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from refexp.rank import this_rank

log = logging.getLogger(__name__)
T = TypeVar("T")
Watcher = Callable[[str, int, int, float], None]
"""Called with stage name, number of items done, total number of items, and items per second."""

LINE_EVERY_SECONDS = 15.0
WORTH_A_LINE_SECONDS = 1.0
WATCHERS_EVERY_SECONDS = 3.0

_watchers: list[Watcher] = []
_silent: list[None] = []


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Within the block, call `watcher` with the progress of each stage: every few seconds, and at its end."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def silently() -> Iterator[None]:
    """Within the block, show no progress: the stages are parts of one that is shown."""
    _silent.append(None)
    try:
        yield
    finally:
        _silent.pop()


def track(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items` and show the progress. With several ranks, shows the progress of rank 0's share."""
    here = this_rank()
    if here.rank or _silent:
        return iter(items)
    items = _with_watchers(items, total, what) if _watchers else items
    if here.world_size > 1:
        what = f"{what} (1 of {here.world_size} ranks)"
    if sys.stdout.isatty():
        return _bar(items, total, what)
    return _with_watchers(items, total, what, [_line], LINE_EVERY_SECONDS)


def _with_watchers(
    items: Iterable[T],
    total: int,
    what: str,
    watchers: Sequence[Watcher] = _watchers,
    seconds: float = WATCHERS_EVERY_SECONDS,
) -> Iterator[T]:
    start = last_call = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last_call >= seconds or done == total:
            last_call = now
            for watcher in watchers:
                watcher(what, done, total, done / max(now - start, 1e-9))


def _line(what: str, done: int, total: int, rate: float) -> None:
    if done / rate >= WORTH_A_LINE_SECONDS:  # short stages print no line at all
        log.info("%s %d/%d, %.2f/s, %.0f s left", what, done, total, rate, (total - done) / rate)


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
