"""Look into shards as they are, not as their indexes say, and write them anew without what is not to be kept."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from refexp.store.records import HEAD, MAGIC, NOTHING, Damaged, Record, length_of, pack, unpack
from refexp.store.shards import ENTRY, GONE, NAME, SETTINGS, Line, Place, Writer, lines_of, read_bytes, read_index

PIECE = 1 << 20
"""Bytes that are read at a time in search of a head."""


def shard_files(folder: Path) -> list[Path]:
    """Return the shards of a store's folder."""
    return _files(folder, "shard")


def lone_indexes(folder: Path) -> list[Path]:
    """Return the indexes whose shard is missing."""
    found = [path for path in _files(folder, "index") if not path.with_suffix(".shard").is_file()]
    return [path for path in found if path.exists()]  # an index is deleted before its shard


def _files(folder: Path, suffix: str) -> list[Path]:
    found = (folder / "shards").glob(f"*.{suffix}")
    return sorted(path for path in found if NAME.fullmatch(path.stem) and path.is_file())


def all_lines(folder: Path) -> dict[str, list[Line]]:
    """Read all indexes of a store's folder. Returns the undamaged lines by shard."""
    found: dict[str, list[Line]] = {}
    for path in _files(folder, "index"):
        with still_there():
            for _, line in lines_of(read_index(path)):
                found.setdefault(line.place.shard, []).append(line)
    return found


@contextmanager
def still_there() -> Iterator[None]:
    """Within the block, a file that another process has deleted ends the block, and nothing else."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


def sound_records(path: Path, start: int = 0) -> Iterator[tuple[int, int, Record]]:
    """Yield the undamaged records of a shard from the byte `start` on: offset, length, record.

    Needs no index: a record tells its length. After damage, it looks for the next head.
    """
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while (at := _next_head(file, start, size)) < size:
            try:
                length = length_of(_read(file, at, HEAD.size))
                record = unpack(read_bytes(file, Place(path.stem, at, length, NOTHING)))
            except Damaged:
                start = at + 1
            except OSError as error:
                if error.errno in GONE:
                    raise
                start = at + 1  # the disk cannot be read here
            else:
                yield at, length, record
                start = at + length


def _next_head(file: BinaryIO, start: int, size: int) -> int:
    """Return where the next head may be, from the byte `start` on. `size` if there is none."""
    if _read(file, start, len(MAGIC)) == MAGIC:
        return start
    for begin in range(start, size, PIECE):
        found = _read(file, begin, PIECE + len(MAGIC) - 1).find(MAGIC)
        if found >= 0:
            return begin + found
    return size


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    """Read bytes of a file. b"" where the disk cannot be read. (A memory map would end the process there.)"""
    try:
        return os.pread(file.fileno(), count, start)
    except OSError as error:
        if error.errno in GONE:
            raise
        return b""


def repack(path: Path, keep: Callable[[int], bool]) -> int:
    """Replace a shard by one with its undamaged entries for which keep(offset) is true. Returns the bytes freed.

    A process that still appends to the old shard notices that it is gone, and begins another one.
    """
    status, writer, done, before = path.stat(), Writer(path.parent), 0, -1
    settings: dict[str, dict[str, Any]] = {}
    while done > before:  # again, because the shard can grow meanwhile
        before = done
        for offset, length, record in sound_records(path, done):
            done = offset + length
            if record.settings is not None:
                settings[record.key] = record.settings
            elif keep(offset):
                line = Line(ENTRY, record.key, Place("", 0, length, record.made_by))
                content = pack(record.key, record.made_by, record.arrays)
                writer.append(line, content, settings.get(record.made_by))
    if writer.name:
        # `prune --older-than` goes by this time, so a copy is as old as what it is a copy of.
        os.utime(path.parent / f"{writer.name}.shard", ns=(status.st_mtime_ns, status.st_mtime_ns))
    size = path.stat().st_size
    for old in (path.with_suffix(".index"), path):
        old.unlink(missing_ok=True)
    return size - writer.written


def index_again(folder: Path, shard: str, records: list[tuple[int, int, str, str, bool]]) -> None:
    """Write lines for records of a shard that no index names, into an index of its own.

    records: of each, offset, length, key, digest of the settings, and whether it holds settings itself.
    """
    writer = Writer(folder / "shards")
    for offset, length, key, made_by, holds_settings in records:
        writer.write_line(Line(SETTINGS if holds_settings else ENTRY, key, Place(shard, offset, length, made_by)))
