"""Reading images ahead of the network that waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Content = TypeVar("Content")

DEPTH = 4
"""Items read ahead; bounds memory to as many images."""


class ReadAhead(Generic[Item, Content]):
    """`read(item)`, started in threads for the items that follow while the caller works on one.

    Decoding and resizing release Python's lock, so threads suffice. wanted: whether an item is worth reading ahead.
    An error of `read` is raised when its item is asked for.
    """

    def __init__(self, items: Sequence[Item], read: Callable[[Item], Content], wanted: Callable[[Item], bool]) -> None:
        self.items, self.read, self.wanted = items, read, wanted
        self.position = {id(item): position for position, item in enumerate(items)}
        self.pending: dict[int, Future[Content]] = {}
        self.pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="read-ahead")

    def get(self, item: Item) -> Content:
        """The content of `item`; reading of the next ones begins."""
        here = self.position[id(item)]
        future = self.pending.pop(here, None) or self.pool.submit(self.read, item)
        for position in [p for p in self.pending if p < here]:  # another job was quicker
            self.pending.pop(position).cancel()
        for position in range(here + 1, min(here + 1 + DEPTH, len(self.items))):
            if len(self.pending) < DEPTH and position not in self.pending and self.wanted(self.items[position]):
                self.pending[position] = self.pool.submit(self.read, self.items[position])
        return future.result()

    def close(self) -> None:
        """Forget what was read ahead for nothing."""
        self.pool.shutdown(wait=False, cancel_futures=True)
