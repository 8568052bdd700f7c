"""A content-addressed store of what is expensive: proposals of targets, prototypes of references.

    refexp store ls       # what is held, by what made it, and how large
    refexp store verify   # finds damaged entries; --delete removes them
    refexp store prune    # frees space: --older-than DAYS, --made-by TEXT, --all

An entry's key is the hash of all that its content depends on (image bytes, resolved settings, weights' SHA-256, format
version), so an entry is right or absent, never stale. Entries are npz archives: no pickle, a checksum on every array.
Writing is atomic, so any number of jobs may read and write at once; claims keep them from doing the same work twice.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import socket
import sys
import time
import zipfile
import zlib
from collections import defaultdict, deque
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
"""By kind of entry; raised when the code's results or the layout change: older ones are then no longer found."""

MADE_BY = "made_by"
NAMELESS_SECONDS = 10.0
"""After which a claim in which no owner stands yet counts as left behind; writing it takes some microseconds."""
POLL_SECONDS = 0.2
DAY = 86400
DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError)

Entry = dict[str, np.ndarray]
Item = TypeVar("Item")


def digest(content: Any) -> str:
    """SHA-256 of a JSON-serialisable value, independent of key order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """Entries below `dir`.

    dtype: of stored features; float32 is exact, float16 halves the store and moves scores by some 1e-4.
    references: which prototypes a run computes: of the "chosen" references, or of "all" valid ones, so that no later
        seed or number of shots finds one missing.
    claim_timeout: seconds after which another job's claim counts as abandoned; longer than any one image takes.
    """

    dir: str
    dtype: Literal["float32", "float16"] = "float32"
    references: Literal["chosen", "all"] = "chosen"
    claim_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 600.0

    def path(self, key: str) -> Path:
        """Where the entry with this key is, or would be."""
        return Path(self.dir) / key[:2] / f"{key}.npz"

    def load(self, key: str) -> Entry | None:
        """The entry, or None if there is none; a damaged one counts as none, with a warning."""
        path = self.path(key)
        try:
            return read_entry(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RefexpError(f"store.dir: cannot read {path}: {error.strerror}.") from None
        except DAMAGE as error:
            log.warning("damaged store entry %s is computed again (%s: %s)", path, type(error).__name__, error)
            return None

    def save(self, key: str, entry: Entry, made_by: Mapping[str, Any]) -> None:
        """Write an entry, and inside it what made it (for `ls`)."""
        note = np.frombuffer(json.dumps(made_by, sort_keys=True, default=str).encode(), dtype=np.uint8)
        arrays: dict[str, Any] = {MADE_BY: note} | entry
        try:
            with atomic_path(self.path(key)) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            raise RefexpError(f"store.dir: cannot write to {self.dir}: {error.strerror}.") from None

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Whether this job may compute the entry; no other job will, until the block ends or the claim times out."""
        path = self.path(key).with_suffix(".claim")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            mine = self._take(path)
        except OSError as error:
            raise RefexpError(f"store.dir: cannot write to {self.dir}: {error.strerror}.") from None
        try:
            yield mine
        finally:
            # After a time-out the claim may be another job's by now.
            if mine and path.exists() and path.read_text() == _owner():
                path.unlink(missing_ok=True)

    def _take(self, path: Path) -> bool:
        if _create(path):
            return True
        try:
            owner, age = path.read_text(), time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return False  # just released: the next round sees
        # A claim without an owner is being written, or its owner died in the act; time tells.
        host, pid = owner.split() if owner else ("unknown host", "?")
        dead = age > NAMELESS_SECONDS if not owner else host == socket.gethostname() and not is_alive(int(pid))
        if not dead and age < self.claim_timeout:
            return False
        log.warning("taking over the work of process %s on %s, which is %s", pid, host, "gone" if dead else "silent")
        # Renaming is atomic: of several jobs that find a dead claim, one moves it away.
        grave = path.with_suffix(f".{socket.gethostname()}-{os.getpid()}")
        try:
            path.rename(grave)
            if grave.read_text() != owner:  # a living claim that came in between: give it back
                os.link(grave, path)
                return False
        except (FileNotFoundError, FileExistsError):
            return False
        finally:
            grave.unlink(missing_ok=True)
        return _create(path)

    def share(
        self,
        items: Sequence[Item],
        key: Callable[[Item], str],
        compute: Callable[[Sequence[Item]], Sequence[Entry]],
        made_by: Mapping[str, Any],
        batch: int = 1,
    ) -> Iterator[tuple[Item, Entry]]:
        """Every item with its entry, read or computed, each computed by one of the jobs that run this at once.

        `compute` gets at most `batch` items at a time. Items that another job is busy with are put off, so the order
        is not that of `items`.
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
                        ready.append((item, entry))  # another job finished it between the look and the claim
                    else:
                        group[name] = item
                    if len(group) == batch or (ready and group):
                        # Claimed work is done before anything is handed out: the caller may take its time.
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
        entries = compute(list(group.values()))
        for name, entry in zip(group, entries, strict=True):
            self.save(name, entry, made_by)
        return list(zip(group.values(), entries, strict=True))


def read_entry(path: Path) -> Entry:
    """All arrays of an entry, checksums verified. Raises one of DAMAGE for a damaged file."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name != MADE_BY}


def _create(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w") as file:
        file.write(_owner())
    return True


def _owner() -> str:
    return f"{socket.gethostname()} {os.getpid()}"


def entries(folder: Path) -> Iterator[Path]:
    """All entry files below a store's folder."""
    yield from sorted(folder.glob("[0-9a-f][0-9a-f]/[0-9a-f]*.npz"))


def leftovers(folder: Path) -> Iterator[Path]:
    """Temporary files and claims that a killed job left behind: those more than a day old."""
    for pattern in ("[0-9a-f][0-9a-f]/.*", "[0-9a-f][0-9a-f]/*.claim"):
        for path in folder.glob(pattern):
            if time.time() - path.stat().st_mtime > DAY:
                yield path


def made_by(path: Path) -> dict[str, Any]:
    """What made an entry. Raises one of DAMAGE for a damaged file."""
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(arrays[MADE_BY].tobytes())


def describe(about: Mapping[str, Any]) -> str:
    """What made an entry, as `ls` shows it."""
    return ", ".join(f"{key}={value}" for key, value in about.items())


def list_entries(folder: Path) -> None:
    """Print count and size of the entries by what made them."""
    count: dict[str, int] = defaultdict(int)
    size: dict[str, int] = defaultdict(int)
    for path in entries(folder):
        try:
            about = made_by(path)
            name = describe(about)
        except DAMAGE:
            name = "DAMAGED (see verify)"
        count[name] += 1
        size[name] += path.stat().st_size
    for name in sorted(count):
        print(f"{count[name]:7d} entries {size[name] / 2**20:10.1f} MiB  {name}")
    print(f"{sum(count.values()):7d} entries {sum(size.values()) / 2**20:10.1f} MiB  in {folder}")


def verify(folder: Path, delete: bool) -> int:
    """Read every entry; print the damaged ones and, if asked, delete them. The number of damaged ones left."""
    damaged = 0
    for path in entries(folder):
        try:
            read_entry(path)
            made_by(path)
        except (*DAMAGE, OSError) as error:
            print(f"damaged: {path} ({type(error).__name__}: {error}){', deleted' if delete else ''}")
            if delete:
                path.unlink()
            else:
                damaged += 1
    print(f"{damaged} damaged entries left in {folder}")
    return damaged


def prune(folder: Path, older_than_days: float | None, text: str | None, everything: bool) -> None:
    """Delete entries written more than some days ago, or whose line in `ls` holds `text`, or all; and leftovers."""
    freed, deleted = 0, 0
    for path in entries(folder):
        # Reading an entry does not touch its file; its age is that of its writing.
        old = older_than_days is not None and time.time() - path.stat().st_mtime > older_than_days * DAY
        if everything or old or (text is not None and text in describe(_made_by_or_nothing(path))):
            freed, deleted = freed + path.stat().st_size, deleted + 1
            path.unlink(missing_ok=True)
    for path in leftovers(folder):
        path.unlink(missing_ok=True)
    print(f"{deleted} entries deleted, {freed / 2**20:.1f} MiB freed in {folder}")


def _made_by_or_nothing(path: Path) -> dict[str, Any]:
    try:
        return made_by(path)
    except DAMAGE:
        return {}


def main(arguments: list[str] | None = None) -> int:
    """`refexp store ls|verify|prune`; the exit code."""
    parser = argparse.ArgumentParser(prog="refexp store", description="Look after a store.")
    parser.add_argument("--dir", type=Path, default=Path("store"), help="the store's folder (store.dir)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="what is held, by what made it, and how large")
    check = commands.add_parser("verify", help="find damaged entries")
    check.add_argument("--delete", action="store_true", help="and delete them; they are computed again when needed")
    free = commands.add_parser("prune", help="free space")
    which = free.add_mutually_exclusive_group(required=True)
    which.add_argument("--older-than", type=float, metavar="DAYS", help="entries written longer ago")
    which.add_argument("--made-by", metavar="TEXT", help="entries whose line in `ls` holds this text")
    which.add_argument("--all", action="store_true", help="every entry")
    options = parser.parse_args(arguments)
    if not options.dir.is_dir():
        print(f"error: no store in {options.dir}; --dir names its folder (store.dir)", file=sys.stderr)
        return 1
    if options.command == "ls":
        list_entries(options.dir)
    elif options.command == "verify":
        return 1 if verify(options.dir, options.delete) else 0
    else:
        prune(options.dir, options.older_than, options.made_by, options.all)
    return 0


if __name__ == "__main__":
    sys.exit(main())
