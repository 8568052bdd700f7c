"""Shards: files of many records, each written by one process alone, and the indexes that say where a record lies.

    DIR/shards/3f1c....shard    records end to end (`records.py`)
    DIR/shards/3f1c....index    a line of 104 bytes for each record, written after it

Why not a known format: many jobs on many machines append at the same time, also on network file systems. SQLite and
lmdb need locks and shared memory that these lack. zarr has a file per chunk, as many as before. safetensors and Arrow
files are written at once, not appended to. None of them has a checksum over names and shapes too. Here, no two
processes write to the same file, so there are no locks. A reader needs one `pread` per entry, checked as a whole.

A record is complete before a line refers to it, so what a killed process leaves is a tail that nobody refers to. Each
line has a checksum. A damaged line counts as no line, and `refexp store verify` writes it again. A line may refer to
any shard: a record that proves damaged is dropped by a line in another index.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from xxhash import xxh3_64_intdigest

from refexp.store.records import NOTHING, Damaged, Entry, Record, pack, unpack

log = logging.getLogger(__name__)

LINE = struct.Struct("<8s32s32s8sQQQ")
"""What the line says, key, digest of the settings, shard, offset and length of the record, checksum of the line."""
CHECKED = LINE.size - 8
ENTRY, SETTINGS, DROPPED = b"entry\0\0\0", b"settings", b"dropped\0"
"""What a line says: here is an entry, here are settings, or the record here is not to be used."""
MAX_ENTRIES, MAX_BYTES = 1000, 1 << 30
"""A process begins a new shard when its shard has so many entries or bytes."""
ATTEMPTS = 20
"""Maximum number of shards that an entry begins because another process deletes the shard that it is written to."""
OPEN = 32
"""Maximum number of shards that are kept open for reading."""
MAX_INDEX = 1 << 26
"""Bytes that are read of an index at a time. An index of a full shard has 100 kB."""
NAME = re.compile("[0-9a-f]{16}")
"""The name of a shard. Files with other names, such as copies, do not belong to a store."""
GONE = (errno.ENOENT, errno.ESTALE, errno.EISDIR, errno.ELOOP)
"""Errors of a file that another process has deleted, or that something else has replaced."""


class Place(NamedTuple):
    """Where a record lies. shard: 16 hex digits. offset, length: in bytes. made_by: 64 hex digits."""

    shard: str
    offset: int
    length: int
    made_by: str


class Line(NamedTuple):
    """A line of an index. kind: ENTRY, SETTINGS or DROPPED."""

    kind: bytes
    key: str
    place: Place

    def packed(self) -> bytes:
        shard, offset, length, made_by = self.place
        ids = bytes.fromhex(self.key), bytes.fromhex(made_by), bytes.fromhex(shard)
        line = LINE.pack(self.kind, *ids, offset, length, 0)[:CHECKED]
        return line + struct.pack("<Q", xxh3_64_intdigest(line))


def lines_of(content: bytes) -> Iterator[tuple[int, Line]]:
    """Yield the undamaged lines of an index, each with the byte after it."""
    whole = len(content) // LINE.size * LINE.size
    for start in range(0, whole, LINE.size):
        kind, key, made_by, shard, offset, length, checksum = LINE.unpack_from(content, start)
        if checksum == xxh3_64_intdigest(content[start : start + CHECKED]):
            yield start + LINE.size, Line(kind, key.hex(), Place(shard.hex(), offset, length, made_by.hex()))


def read_index(path: Path, start: int = 0) -> bytes:
    """Read an index from a byte on. Raises OSError."""
    with path.open("rb") as file:
        file.seek(start)
        return file.read(MAX_INDEX)


class Shards:
    """The shards of a store in a folder. Any number of processes may use it. One process may use it in threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "shards"
        self.places: dict[str, Place] = {}
        self.settings: dict[str, Place] = {}
        self.dropped: set[tuple[str, int]] = set()
        self.consumed: dict[str, int] = {}  # of each index, the bytes that are read
        self.shards: set[str] = set()
        self.opened: OrderedDict[str, BinaryIO] = OrderedDict()
        self.lock = threading.RLock()
        self.writer = Writer(self.folder)

    def refresh(self) -> None:
        """Read what other processes have added since the last time. Raises OSError if the folder cannot be read."""
        with self.lock:
            sizes, shards = self._files()
            if self.shards - shards:  # somebody has pruned
                for known in (self.places, self.settings, self.dropped, self.consumed, self.opened):
                    known.clear()
            self.shards = shards
            grown = [name for name, size in sizes.items() if size - self.consumed.get(name, 0) >= LINE.size]
            lines = [line for name in grown for line in self._new_lines(name)]
            for line in lines:  # first, because the index that drops a record need not be the one that names it
                if line.kind == DROPPED:
                    self._forget(line.key, line.place)
            for line in lines:
                self._note(line)

    def read(self, key: str) -> Record | None:
        """Return the record of an entry, or None if there is none. Damaged ones are dropped with a warning.

        Raises OSError if its file is there and cannot be read.
        """
        while place := self.places.get(key):
            try:
                return self._checked(key, place)
            except Damaged as error:
                self.refresh()
                if self.places.get(key) == place:  # no other process has dropped it
                    path = self.folder / f"{place.shard}.shard"
                    log.warning("store entry %s in %s is damaged and is computed again (%s)", key, path, error)
                    self.drop(key, place)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                self._forget(key, place)
                self.refresh()
        return None

    def settings_of(self, made_by: str) -> dict[str, Any] | None:
        """Return the settings with this digest. None if they are lost."""
        if made_by not in self.settings:
            self.refresh()
        try:
            return self._checked(made_by, self.settings[made_by]).settings
        except (KeyError, Damaged, OSError):
            return None

    def save(self, key: str, entry: Entry, made_by: str, settings: Mapping[str, Any]) -> None:
        """Append an entry. made_by: the digest of `settings`. Raises OSError if it cannot be written."""
        record = pack(key, made_by, entry)
        with self.lock:
            self._note(self.writer.append(Line(ENTRY, key, Place("", 0, len(record), made_by)), record, settings))

    def drop(self, key: str, place: Place) -> None:
        """Set a record aside: no process uses it from now on. On a store that is read-only, only this process."""
        with self.lock:
            self._forget(key, place)
            try:
                self.writer.write_line(Line(DROPPED, key, place))
            except OSError as error:
                log.debug("cannot note the damaged record: %s", error)

    def _files(self) -> tuple[dict[str, int], set[str]]:
        """Return the size of each index that has its shard, and the names of the shards."""
        sizes: dict[str, int] = {}
        shards: set[str] = set()
        with suppress(FileNotFoundError), os.scandir(self.folder) as found:  # without a folder, there is no store yet
            for file in found:
                name, _, suffix = file.name.rpartition(".")
                if suffix not in ("shard", "index") or not NAME.fullmatch(name):
                    continue
                try:
                    if not file.is_file():
                        continue
                    if suffix == "shard":
                        shards.add(name)
                    else:
                        sizes[name] = file.stat().st_size
                except OSError as error:
                    if error.errno not in GONE:
                        raise
        # A shard is created before its index, but a listing can miss what is being created. The next one shows it.
        return {name: size for name, size in sizes.items() if name in shards}, shards

    def _new_lines(self, name: str) -> list[Line]:
        """Read on in an index. A damaged tail is read again the next time: it may be a line that is being written."""
        done = self.consumed.get(name, 0)
        try:
            found = list(lines_of(read_index(self.folder / f"{name}.index", done)))
        except OSError as error:
            if error.errno not in GONE:
                raise
            return []
        if found:
            self.consumed[name] = done + found[-1][0]
        return [line for _, line in found]

    def _note(self, line: Line) -> None:
        place = line.place
        gone = place.shard not in self.shards and place.shard != self.writer.name
        if gone or (place.shard, place.offset) in self.dropped:
            return
        if line.kind == ENTRY:
            self.places[line.key] = place
        elif line.kind == SETTINGS:
            self.settings[line.key] = place

    def _forget(self, key: str, place: Place) -> None:
        self.dropped.add((place.shard, place.offset))
        known = self.places.get(key)
        if known and known[:2] == place[:2]:
            del self.places[key]

    def _checked(self, key: str, place: Place) -> Record:
        """Read and check a record. Raises OSError and Damaged."""
        try:
            return unpack(read_bytes(self._opened(place.shard), place), key)
        except (Damaged, OSError):
            # A network file system may show an old state of a file that was opened before it grew.
            self.opened.pop(place.shard, None)
            return unpack(read_bytes(self._opened(place.shard), place), key)

    def _opened(self, shard: str) -> BinaryIO:
        """Return the file of a shard, kept open for the next records."""
        with self.lock:
            file = self.opened.pop(shard, None) or (self.folder / f"{shard}.shard").open("rb", buffering=0)
            self.opened[shard] = file
            if len(self.opened) > OPEN:
                self.opened.popitem(last=False)
            return file


def read_bytes(file: BinaryIO, place: Place) -> np.ndarray:
    """Read a record, u8 [length], as a rule with one call. Raises OSError, and Damaged if the file is too short."""
    status = os.fstat(file.fileno())
    if not status.st_nlink and not Path(file.name).exists():
        raise FileNotFoundError(errno.ENOENT, "deleted by another process", file.name)
    if status.st_size < place.offset + place.length:
        raise Damaged("its file is too short")
    try:
        content, done = np.empty(place.length, dtype=np.uint8), 0
    except MemoryError:
        raise Damaged(f"its index says that it has {place.length} bytes") from None
    while done < place.length:
        try:
            count = os.preadv(file.fileno(), [content.data[done:]], place.offset + done)
        except OSError as error:
            error.filename = file.name
            raise
        if not count:
            raise Damaged("its file is too short")
        done += count
    return content


class Writer:
    """Appends records to shards of its own. After a fork, the child begins a shard of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name, self.process = "", 0
        self.end = self.lines = self.written = 0
        self.known: set[str] = set()

    def append(self, line: Line, record: np.ndarray, settings: Mapping[str, Any] | None) -> Line:
        """Write a record, then its line. Returns the line with the record's place. Raises OSError.

        settings: those that made the entry, written before it if this shard lacks them.
        """
        for _ in range(ATTEMPTS):
            try:
                return self._append(line, record, settings)
            except OSError as error:
                if error.errno not in GONE:
                    raise
                self.process = 0  # somebody has pruned this shard
        return self._append(line, record, settings)

    def _append(self, line: Line, record: np.ndarray, settings: Mapping[str, Any] | None) -> Line:
        made_by = line.place.made_by
        if self.process != os.getpid() or self.lines >= MAX_ENTRIES or self.end >= MAX_BYTES:
            self._begin()
        if settings is not None and made_by not in self.known:
            about = pack(made_by, NOTHING, {}, settings)
            self._write(Line(SETTINGS, made_by, Place("", 0, len(about), NOTHING)), about)
            self.known.add(made_by)
        return self._write(line, record)

    def write_line(self, line: Line) -> None:
        """Append a line about a record of any shard. Raises OSError."""
        if self.process != os.getpid():
            self._begin()
        with (self.folder / f"{self.name}.index").open("r+b") as file:
            file.seek(self.lines * LINE.size)  # over what a failed write left
            file.write(line.packed())
        self.lines += 1

    def _write(self, line: Line, record: np.ndarray) -> Line:
        # Closed after each record: a network file system then shows the record before the line.
        with (self.folder / f"{self.name}.shard").open("r+b", buffering=0) as file:
            file.seek(self.end)
            written = 0
            while written < len(record):
                written += file.write(record.data[written:])
        line = line._replace(place=line.place._replace(shard=self.name, offset=self.end))
        self.write_line(line)
        self.end += len(record)
        self.written += len(record)  # to all its shards
        return line

    def _begin(self) -> None:
        """Create an empty shard and its index. The name is random, so no other process has it."""
        name = secrets.token_hex(8)
        self.folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("shard", "index"):
            (self.folder / f"{name}.{suffix}").open("xb").close()
        self.name, self.process, self.end, self.lines, self.known = name, os.getpid(), 0, 0, set()
