"""Looking after a store: what it holds, what is damaged, what can go."""

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
