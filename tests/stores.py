"""What a store holds, and faults in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refexp.store.records import Record
from refexp.store.repack import shard_files, sound_records
from refexp.store.shards import Place, Shards


def records(folder: Path) -> list[Record]:
    """The sound records of all shards that hold entries, whatever the indexes say."""
    found = [record for path in shard_files(folder) for _, _, record in sound_records(path)]
    return [record for record in found if record.settings is None]


def place_of(folder: Path, key: str) -> tuple[Path, Place]:
    """The shard of an entry, and where in it the entry lies."""
    shards = Shards(folder)
    shards.refresh()
    place = shards.places[key]
    return folder / "shards" / f"{place.shard}.shard", place


def flip(path: Path, byte: int, bit: int = 0) -> None:
    """Flip a bit in a file."""
    with path.open("r+b") as file:
        file.seek(byte)
        (value,) = file.read(1)
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


def save_old(folder: Path, key: str, entry: dict[str, np.ndarray], made_by: bytes = b"{}") -> Path:
    """Write an entry as older versions did."""
    path = folder / key[:2] / f"{key}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, made_by=np.frombuffer(made_by, dtype=np.uint8), **entry)
    return path
