"""What was done to the data so that it could be used: clipped, completed, reinterpreted or left out.

Whoever repairs something calls `repaired`. A run collects these notes with `collecting`, prints one line for each kind
and keeps them in its record. Without a collector, each note is a warning; `summed_up` makes it one for each kind.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from refexp.errors import RefexpError

log = logging.getLogger(__name__)


class Repairs:
    """The repairs of a run: by kind, the examples and how often each counts.

    An example counts once, however often the data are read: an image is tried first and computed from later.
    strict: refuse whatever would be repaired (`input.strict=true`).
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.examples: dict[str, dict[str, int]] = {}
        self.told: dict[str, tuple[int, str]] = {}
        self.lock = threading.Lock()  # threads that read images ahead note repairs, too

    def add(self, what: str, example: str, count: int = 1) -> None:
        """Count a repair. Raises RefexpError if the repairs are strict."""
        if self.strict:
            raise RefexpError(f"input.strict=true: {line(what, count, example)}")
        with self.lock:
            self.examples.setdefault(what, {})[example] = count

    def merge(self, examples: Mapping[str, Mapping[str, int]]) -> None:
        """Add the examples of another rank."""
        for what, counts in examples.items():
            self.examples.setdefault(what, {}).update(counts)

    @property
    def found(self) -> dict[str, tuple[int, str]]:
        """Count and first example of each kind. First in the order of numbers, not in that of threads."""
        return {
            what: (sum(counts.values()), min(counts, key=lambda example: (len(example), example)))
            for what, counts in self.examples.items()
        }

    def tell(self) -> None:
        """Warn of each kind of repair in one line, unless it was told with this count already."""
        found = self.found
        for what, (count, example) in found.items():
            if self.told.get(what) != (count, example):
                log.warning("%s", line(what, count, example))
        self.told = found


def line(what: str, count: int, example: str) -> str:
    """Say in one line what was repaired: `mask clipped to its image: 12, first: refs.json, annotation 7`."""
    return f"{what}: {count}, first: {example}"


_collectors: list[Repairs] = []


@contextmanager
def collecting(strict: bool = False) -> Iterator[Repairs]:
    """Within the block, collect all repairs. strict: refuse them instead."""
    repairs = Repairs(strict)
    _collectors.append(repairs)
    try:
        yield repairs
    finally:
        _collectors.remove(repairs)


@contextmanager
def summed_up() -> Iterator[None]:
    """Within the block, sum up the repairs of each kind, unless a run collects them anyway, and warn at the end."""
    if _collectors:
        yield
        return
    with collecting() as repairs:
        yield
    repairs.tell()


def repaired(what: str, example: str, count: int = 1) -> None:
    """Note a repair. what: the kind, as in "mask clipped to its image". example: the file and the record.

    Raises RefexpError if the collector is strict.
    """
    if _collectors:
        _collectors[-1].add(what, example, count)
    else:
        log.warning("%s", line(what, count, example))
