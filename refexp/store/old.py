"""Entries of older versions: an npz archive each, `DIR/ab/ab12....npz`. They are read, and not written any more.

An archive has a checksum for each array, with the array's name and shape. It is compared only if the array is read to
its end, so arrays are read whole before anything is taken from them. An archive does not say which key it has, so what
it holds must be what one of refexp's entries holds.
"""

from __future__ import annotations

import io
import json
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from refexp.store.records import Damaged, Entry

log = logging.getLogger(__name__)

MADE_BY = "made_by"
KEY = re.compile("[0-9a-f]{64}")
ERRORS = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, IndexError, EOFError, NotImplementedError, RuntimeError,
          SyntaxError, OverflowError, MemoryError)  # fmt: skip
"""What zipfile and numpy raise for damaged files. RuntimeError: a flipped bit says that the file is encrypted."""
KINDS: dict[str, dict[str, tuple[str, int]]] = {
    "proposals": {
        "quality": ("f", 1), "boxes_lr": ("i", 2), "features": ("f", 2), "masks": ("u", 1), "mask_lengths": ("i", 1),
        "size": ("i", 1),
    },
    "prototype": {"prototype": ("f", 1)},
    "mask of a box": {"mask": ("u", 1)},
}  # fmt: skip
"""The arrays of each kind of entry, with the kind of their dtype and their number of dimensions."""


def path_of(folder: Path, key: str) -> Path:
    """Return the path of an old entry with this key, even if the entry does not exist."""
    return folder / key[:2] / f"{key}.npz"


def paths(folder: Path) -> Iterator[Path]:
    """Yield the files of all old entries in a store's folder."""
    for part in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        found: list[Path] = []
        with suppress(FileNotFoundError):  # another process has migrated what was there
            found = [path for path in part.glob("*.npz") if KEY.fullmatch(path.stem) and path.is_file()]
        yield from sorted(found)


def read(path: Path) -> tuple[Entry, dict[str, Any]]:
    """Return an old entry and the settings that made it. Raises Damaged, and OSError if the file cannot be read."""
    with _opened(io.BytesIO(path.read_bytes())) as archive:
        arrays = {name.removesuffix(".npy"): _array(archive, name) for name in archive.namelist()}
        settings = _settings(arrays.pop(MADE_BY))
        check(arrays)
    return arrays, settings


def read_settings(path: Path) -> dict[str, Any] | None:
    """Return the settings that made an old entry. None if they are damaged."""
    try:
        with _opened(path) as archive:
            return _settings(_array(archive, f"{MADE_BY}.npy"))
    except (Damaged, OSError):
        return None


@contextmanager
def _opened(file: Path | io.BytesIO) -> Iterator[zipfile.ZipFile]:
    """Open an archive. Within the block, errors of damaged content become Damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except ERRORS as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)


def _settings(note: np.ndarray) -> dict[str, Any]:
    settings = json.loads(note.tobytes())
    if not isinstance(settings, dict):
        raise ValueError("its settings are not a mapping")
    return settings


def check(entry: Entry) -> None:
    """Raise ValueError if the arrays are not those of an entry, or contradict each other."""
    wanted = next((kind for kind in KINDS.values() if kind.keys() == entry.keys()), None)
    if wanted is None:
        raise ValueError(f"no entry holds {', '.join(sorted(entry)) or 'nothing'}")
    for name, array in entry.items():
        if (array.dtype.kind, array.ndim) != wanted[name]:
            raise ValueError(f"{name} is {array.dtype} with the shape {array.shape}")
    if "mask" in entry:
        pixels_of(entry["mask"], np.array([len(entry["mask"])]))
    if "masks" not in entry:
        return
    lengths, size = entry["mask_lengths"], entry["size"]
    counts = {len(entry[name]) for name in ("quality", "boxes_lr", "features", "mask_lengths")}
    if len(counts) != 1 or entry["boxes_lr"].shape[1] != 4 or size.shape != (2,):
        raise ValueError("its arrays have different lengths")
    if (lengths < 1).any() or lengths.sum() != len(entry["masks"]):
        raise ValueError("the lengths of its masks do not add up")
    if (pixels_of(entry["masks"], lengths) != size.prod()).any():
        raise ValueError("a mask does not fill its image")


def pixels_of(codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the number of pixels that each mask's run-length code covers, i64 [M].

    codes: u8, COCO's codes end to end (`run_lengths.py`). lengths: i64 [M], the characters of each.
    """
    if not len(lengths):
        return np.zeros(0, dtype=np.int64)
    values = codes.astype(np.int64) - 48
    if len(values) and (values.min() < 0 or values.max() > 63):
        raise ValueError("a mask has characters that no code has")
    last = np.flatnonzero((values & 32) == 0)  # of each run, its last character
    ends = np.searchsorted(last, lengths.cumsum() - 1)  # of each mask, its last run
    if not (len(last) and ends[-1] < len(last) and (last[ends] == lengths.cumsum() - 1).all()):
        raise ValueError("a mask ends within a run")
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(len(values)) - np.repeat(first, last - first + 1)
    if place.max() > 6:
        raise ValueError("a run is too long")
    runs = np.add.reduceat((values & 31) << (5 * place), first)
    runs -= np.where(values[last] & 16, np.int64(1) << (5 * (last - first + 1)), 0)
    # Run n is stored as the difference to run n - 2, from n = 3 on, so it counts again in every second run after it.
    starts = np.concatenate([[0], ends[:-1] + 1])
    number = np.arange(len(runs)) - np.repeat(starts, ends - starts + 1)
    left = np.repeat(ends, ends - starts + 1) - np.arange(len(runs))
    return np.add.reduceat(runs * np.where(number > 0, left // 2 + 1, 1), starts)
