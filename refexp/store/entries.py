"""A content-addressed store of expensive results: proposals of targets and prototypes of references.

    refexp store ls       # list the entries by the settings that made them, with their size
    refexp store verify   # list damaged entries; --delete removes them
    refexp store prune    # free space: --older-than DAYS, --made-by TEXT, --all
    refexp store migrate  # move the entries of older versions, one file each, into shards

The key of an entry is the hash of everything that its content depends on: image bytes, resolved settings, SHA-256 of
the weights, the `FORMAT` of its kind and the revision of the code. An entry is outdated only if code that changes its
content forgets to raise these. Entries lie in shards (`shards.py`). Each entry has a checksum over all its bytes
(`records.py`), which every read compares. Any number of jobs can read and write at the same time. Claims (`claims.py`)
prevent two jobs from computing the same entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import Field

from refexp.errors import RefexpError
from refexp.store import old
from refexp.store.claims import Claims, Patience
from refexp.store.records import Damaged, Entry
from refexp.store.shards import GONE, Shards

log = logging.getLogger(__name__)

FORMAT = {"proposals": 2, "prototype": 1, "box mask": 3, "tokens": 1}
"""Format version of each kind of entry. A new version, for changed results or layout, makes old entries invisible.

Where one encoder or proposer alone changes its results, its `revision` goes up instead.
"""

Item = TypeVar("Item")


def digest(content: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """A store in the folder `dir`. Keys are 64 hex digits (`digest`).

    dtype: of the stored features. float32 is exact. float16 halves the size and changes scores by about 1e-4.
    references: which prototypes a run computes: those of the "chosen" references, or of "all" valid ones. With "all",
        later runs with other seeds or shots find every prototype in the store.
    claim_timeout: seconds without a heartbeat after which another job's claim counts as abandoned.
    """

    dir: str
    dtype: Literal["float32", "float16"] = "float32"
    references: Literal["chosen", "all"] = "chosen"
    claim_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0

    @cached_property
    def shards(self) -> Shards:
        """The files of the entries, as of now."""
        shards = Shards(Path(self.dir))
        try:
            shards.refresh()
        except OSError as error:
            self._refuse("read", error)
        return shards

    @cached_property
    def claims(self) -> Claims:
        """The claims of this process, and its view of those of others."""
        return Claims(Path(self.dir), self.claim_timeout)

    def refresh(self) -> None:
        """Look for the entries that other jobs have added. `load` does so itself; `size` relies on it."""
        try:
            self.shards.refresh()
        except OSError as error:
            self._refuse("read", error)

    def size(self, key: str) -> int | None:
        """Return the size of an entry in bytes. None if it does not exist, as far as the last `refresh` tells."""
        if place := self.shards.places.get(key):
            return place.length
        try:
            return old.path_of(Path(self.dir), key).stat().st_size
        except OSError:
            return None

    def load(self, key: str) -> Entry | None:
        """Return the entry, or None if it does not exist. For a damaged entry, warn and return None."""
        entry = self._held(key)
        if entry is None:
            self.refresh()
            entry = self._held(key)
        return entry

    def _held(self, key: str) -> Entry | None:
        """Return the entry if it is where the last refresh found it, or in a file of its own."""
        path = old.path_of(Path(self.dir), key)
        try:
            if record := self.shards.read(key):
                return record.arrays
            return old.read(path)[0]
        except OSError as error:
            if error.errno in GONE:
                return None
            self._refuse("read", error)
        except Damaged as error:
            if path not in self._warned:
                log.warning("store entry %s is damaged and is computed again (%s)", path, error)
            self._warned.add(path)
            return None

    @cached_property
    def _warned(self) -> set[Path]:
        """Damaged files of older versions that refexp has warned of. `refexp store verify --delete` deletes them."""
        return set()

    def save(self, key: str, entry: Entry, made_by: Mapping[str, Any]) -> None:
        """Write an entry. made_by: the settings that made it, for `refexp store ls`."""
        try:
            self.shards.save(key, entry, digest(made_by), made_by)
        except OSError as error:
            self._refuse("write to", error)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Yield whether this job may compute the entry.

        If so, no other job computes it until the block ends or this process does.
        """
        try:
            claim = self.claims.take(key)
        except OSError as error:
            self._refuse("write to", error)
        try:
            yield claim is not None
        finally:
            if claim:
                self.claims.release(claim)

    def share(
        self,
        items: Sequence[Item],
        key: Callable[[Item], str],
        compute: Callable[[Sequence[Item]], Sequence[Entry]],
        made_by: Mapping[str, Any],
        batch: int = 1,
    ) -> Iterator[tuple[Item, Entry]]:
        """Yield every item with its entry, read from the store or computed.

        Jobs that run this at the same time share the work: only one of them computes each entry. `compute` gets at most
        `batch` items at a time. Items that another job computes are postponed, so the order differs from `items`.
        An entry is saved under the key that `key` returns after `compute`: an image may have changed in between.
        """
        waiting, patience = deque(items), Patience(self.claims)
        while waiting:
            self.refresh()
            before = len(waiting)
            group: dict[str, Item] = {}
            ready: list[tuple[Item, Entry]] = []
            with ExitStack() as claims:
                for _ in range(before):
                    item = waiting.popleft()
                    name = key(item)
                    entry = self._held(name)
                    if entry is not None:
                        ready.append((item, entry))
                    elif not claims.enter_context(self.claim(name)):
                        waiting.append(item)
                    elif (entry := self.load(name)) is not None:
                        ready.append((item, entry))  # another job finished it between the look and the claim
                    else:
                        group[name] = item
                    if len(group) == batch or (ready and group):
                        # Compute before yielding: the caller can be slow, and other jobs would wait for the claims.
                        ready += self._compute(list(group.values()), key, compute, made_by)
                        group.clear()
                    if not group:
                        claims.close()
                        yield from ready
                        ready.clear()
                ready += self._compute(list(group.values()), key, compute, made_by) if group else []
            yield from ready
            if len(waiting) < before:
                patience.over()
            else:
                patience.wait(key(waiting[0]), len(waiting))

    def _compute(
        self,
        items: Sequence[Item],
        key: Callable[[Item], str],
        compute: Callable[[Sequence[Item]], Sequence[Entry]],
        made_by: Mapping[str, Any],
    ) -> list[tuple[Item, Entry]]:
        """Compute and save the entries of some items."""
        found = list(zip(items, compute(items), strict=True))
        for item, entry in found:
            self.save(key(item), entry, made_by)
        return found

    def _refuse(self, what: str, error: OSError) -> NoReturn:
        where = error.filename or self.dir
        raise RefexpError(
            f"store.dir: cannot {what} {where}: {error.strerror}. Set another store.dir, or REFEXP_STORE."
        ) from None
