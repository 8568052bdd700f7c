"""Prefetching: threads read the next images while the network works on the current one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Content = TypeVar("Content")

DEPTH = 4
"""Maximum number of items read ahead. It limits the memory to this many images."""


class ReadAhead(Generic[Item, Content]):
    """Calls `read(item)` in threads for the next items while the caller works on the current one.

    Threads are enough, because decoding and resizing release Python's global lock.
    wanted: returns whether an item is worth reading ahead.
    If `read` raises an error, `get` raises it for that item.
    """

    def __init__(self, items: Sequence[Item], read: Callable[[Item], Content], wanted: Callable[[Item], bool]) -> None:
        self.items, self.read, self.wanted = items, read, wanted
        self.position = {id(item): position for position, item in enumerate(items)}  # items can be unhashable
        self.pending: dict[int, Future[Content]] = {}
        self.pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="read-ahead")

    def get(self, item: Item) -> Content:
        """Return the content of `item` and start reading the next items."""
        here = self.position[id(item)]
        future = self.pending.pop(here, None) or self.pool.submit(self.read, item)
        for position in [p for p in self.pending if p < here]:  # another job has computed these
            self.pending.pop(position).cancel()
        for position in range(here + 1, min(here + 1 + DEPTH, len(self.items))):
            if len(self.pending) < DEPTH and position not in self.pending and self.wanted(self.items[position]):
                self.pending[position] = self.pool.submit(self.read, self.items[position])
        return future.result()

    def close(self) -> None:
        """Drop the items that were read ahead but not used."""
        self.pool.shutdown(wait=False, cancel_futures=True)
