"""Maintain a store: list, verify and delete its entries."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refexp.store.entries import DAMAGE, MADE_BY, read_entry

DAY = 86400


def entries(folder: Path) -> Iterator[Path]:
    """Yield all entry files in a store's folder."""
    yield from sorted(folder.glob("[0-9a-f][0-9a-f]/[0-9a-f]*.npz"))


def leftovers(folder: Path) -> Iterator[Path]:
    """Yield the temporary files and claims that killed jobs left: those older than a day."""
    for pattern in ("[0-9a-f][0-9a-f]/.*", "[0-9a-f][0-9a-f]/*.claim"):
        for path in folder.glob(pattern):
            if time.time() - path.stat().st_mtime > DAY:
                yield path


def made_by(path: Path) -> dict[str, Any]:
    """Read the settings that made an entry. Raises one of DAMAGE for a damaged file."""
    with np.load(path, allow_pickle=False) as arrays:
        return json.loads(arrays[MADE_BY].tobytes())


def describe(about: Mapping[str, Any]) -> str:
    """Format the settings that made an entry, as `ls` shows them."""
    return ", ".join(f"{key}={value}" for key, value in about.items())


def list_entries(folder: Path) -> None:
    """Print the number and size of the entries, grouped by the settings that made them."""
    sizes: dict[str, list[int]] = defaultdict(list)
    for path in entries(folder):
        try:
            name = describe(made_by(path))
        except DAMAGE:
            name = "DAMAGED (see verify)"
        sizes[name].append(path.stat().st_size)
    everything = [size for of_name in sizes.values() for size in of_name]
    for name, of_name in [*sorted(sizes.items()), (f"in {folder}", everything)]:
        print(f"{len(of_name):7d} entries {sum(of_name) / 2**20:10.1f} MiB  {name}")


def verify(folder: Path, delete: bool) -> int:
    """Read every entry and print the damaged ones. With `delete`, delete them. Returns how many damaged ones remain."""
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
    """Delete entries older than some days, or with `text` in their line in `ls`, or all. Also delete leftovers."""
    freed, deleted = 0, 0
    for path in entries(folder):
        # Reading an entry does not change its file time, so the age counts from the write.
        old = older_than_days is not None and time.time() - path.stat().st_mtime > older_than_days * DAY
        if everything or old or (text is not None and text in describe(_made_by_or_nothing(path))):
            freed, deleted = freed + path.stat().st_size, deleted + 1
            path.unlink(missing_ok=True)
    for path in leftovers(folder):
        path.unlink(missing_ok=True)
    print(f"{deleted} entries deleted, {freed / 2**20:.1f} MiB freed in {folder}")


def _made_by_or_nothing(path: Path) -> dict[str, Any]:
    """Read the settings that made an entry. A damaged entry has none, so that `prune` can still delete it."""
    try:
        return made_by(path)
    except DAMAGE:
        return {}
