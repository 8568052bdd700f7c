"""A content-addressed store of expensive results: proposals of targets and prototypes of references.

    refexp store ls       # list the entries by the settings that made them, with their size
    refexp store verify   # list damaged entries; --delete removes them
    refexp store prune    # free space: --older-than DAYS, --made-by TEXT, --all

The key of an entry is the hash of everything that its content depends on: image bytes, resolved settings, SHA-256 of
the weights, format version. So an entry is never outdated. Entries are npz archives without pickles, with a checksum
for each array. Writes are atomic, so any number of jobs can read and write at the same time. Claims prevent two jobs
from computing the same entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field

from refexp.errors import RefexpError
from refexp.files import atomic_path
from refexp.machine.processes import is_alive

log = logging.getLogger(__name__)

FORMAT = {"proposals": 2, "prototype": 1, "box mask": 3}
"""Format version of each kind of entry. A new version, for changed results or layout, makes old entries invisible."""

MADE_BY = "made_by"
NAMELESS_SECONDS = 10.0
"""Age at which a claim without an owner counts as abandoned. Writing the owner takes only microseconds."""
POLL_SECONDS = 0.2
"""Time between two looks at entries that other jobs compute."""
DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError)

Entry = dict[str, np.ndarray]
Item = TypeVar("Item")


def digest(content: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """A store in the folder `dir`.

    dtype: of the stored features. float32 is exact. float16 halves the size and changes scores by about 1e-4.
    references: which prototypes a run computes: those of the "chosen" references, or of "all" valid ones. With "all",
        later runs with other seeds or shots find every prototype in the store.
    claim_timeout: seconds after which another job's claim counts as abandoned. It must be longer than the time for any
        single image.
    """

    dir: str
    dtype: Literal["float32", "float16"] = "float32"
    references: Literal["chosen", "all"] = "chosen"
    claim_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0

    def path(self, key: str) -> Path:
        """Return the path of the entry with this key, even if the entry does not exist."""
        return Path(self.dir) / key[:2] / f"{key}.npz"

    def load(self, key: str) -> Entry | None:
        """Return the entry, or None if it does not exist. For a damaged entry, warn and return None."""
        path = self.path(key)
        try:
            return read_entry(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RefexpError(f"store.dir: cannot read {path}: {error.strerror}.") from None
        except DAMAGE as error:
            log.warning("store entry %s is damaged and is computed again (%s: %s)", path, type(error).__name__, error)
            return None

    def save(self, key: str, entry: Entry, made_by: Mapping[str, Any]) -> None:
        """Write an entry. made_by: the settings that made it, stored inside the entry for `refexp store ls`."""
        note = np.frombuffer(json.dumps(made_by, sort_keys=True, default=str).encode(), dtype=np.uint8)
        arrays: dict[str, Any] = {MADE_BY: note} | entry
        try:
            with atomic_path(self.path(key)) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise RefexpError(f"store.dir: cannot write to {self.dir}: {error.strerror}.") from None

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Yield whether this job may compute the entry.

        If so, no other job computes it until the block ends or the claim times out.
        """
        path = self.path(key).with_suffix(".claim")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            taken = self._take(path)
        except OSError as error:
            raise RefexpError(f"store.dir: cannot write to {self.dir}: {error.strerror}.") from None
        try:
            yield taken
        finally:
            # After a timeout, the claim can belong to another job.
            if taken and path.exists() and path.read_text() == _owner():
                path.unlink(missing_ok=True)

    def _take(self, path: Path) -> bool:
        """Create the claim, or take over an abandoned one. Returns whether this job now holds it."""
        if _create(path):
            return True
        try:
            owner, age = path.read_text(), time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return False  # another job has just released it, so the next round tries again
        # A claim without an owner is being written, or its owner died while writing it. The age decides.
        host, pid = owner.split() if owner else ("unknown host", "?")
        dead = age > NAMELESS_SECONDS if not owner else host == socket.gethostname() and not is_alive(int(pid))
        if not dead and age < self.claim_timeout:
            return False
        reason = "ended" if dead else "timed out"
        log.warning("taking over the store entry of process %s on %s, which has %s", pid, host, reason)
        # Renaming is atomic, so only one of several jobs moves the abandoned claim away.
        moved = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}")
        try:
            path.rename(moved)
            if moved.read_text() != owner:  # another job has made a new claim in the meantime, so restore it
                os.link(moved, path)
                return False
        except (FileNotFoundError, FileExistsError):
            return False
        finally:
            moved.unlink(missing_ok=True)
        return _create(path)

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
        """
        waiting = deque(items)
        while waiting:
            before = len(waiting)
            group: dict[str, Item] = {}
            ready: list[tuple[Item, Entry]] = []
            with ExitStack() as claims:
                for _ in range(before):
                    item = waiting.popleft()
                    name = key(item)
                    entry = self.load(name)
                    if entry is not None:
                        ready.append((item, entry))
                    elif not claims.enter_context(self.claim(name)):
                        waiting.append(item)
                    elif self.path(name).exists() and (entry := self.load(name)) is not None:
                        ready.append((item, entry))  # another job finished it between the load and the claim
                    else:
                        group[name] = item
                    if len(group) == batch or (ready and group):
                        # Compute before yielding: the caller can be slow, and the claims would time out.
                        ready += self._compute(group, compute, made_by)
                        group.clear()
                    if not group:
                        claims.close()
                        yield from ready
                        ready.clear()
                ready += self._compute(group, compute, made_by) if group else []
            yield from ready
            if len(waiting) == before:
                time.sleep(POLL_SECONDS)

    def _compute(
        self,
        group: Mapping[str, Item],
        compute: Callable[[Sequence[Item]], Sequence[Entry]],
        made_by: Mapping[str, Any],
    ) -> list[tuple[Item, Entry]]:
        """Compute and save the entries of a group of items by key."""
        entries = compute(list(group.values()))
        for name, entry in zip(group, entries, strict=True):
            self.save(name, entry, made_by)
        return list(zip(group.values(), entries, strict=True))


def read_entry(path: Path) -> Entry:
    """Read all arrays of an entry and verify their checksums. Raises one of DAMAGE for a damaged file."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name != MADE_BY}


def _create(path: Path) -> bool:
    """Create a claim with this process as its owner. Returns False if the claim exists."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(_owner())
    return True


def _owner() -> str:
    """Return host and process id of this process, the content of its claims."""
    return f"{socket.gethostname()} {os.getpid()}"
