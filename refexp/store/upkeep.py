"""Maintain a store: list, verify, migrate and delete its entries."""

from __future__ import annotations

import stat
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from refexp.store import old
from refexp.store.entries import Store
from refexp.store.records import Damaged
from refexp.store.repack import (
    all_lines,
    index_again,
    lone_indexes,
    repack,
    shard_files,
    sound_records,
    still_there,
)
from refexp.store.shards import DROPPED, ENTRY, Line, Shards

DAY = 86400


def describe(about: Mapping[str, Any] | None) -> str:
    """Format the settings that made an entry, as `ls` shows them."""
    return (
        "UNKNOWN settings (see verify)" if about is None else ", ".join(f"{key}={about[key]}" for key in sorted(about))
    )


def list_entries(folder: Path) -> None:
    """Print the number and size of the entries, grouped by the settings that made them."""
    sizes: dict[str, list[int]] = defaultdict(list)
    shards = Shards(folder)
    shards.refresh()
    by_maker: dict[str, list[int]] = defaultdict(list)
    for place in shards.places.values():
        by_maker[place.made_by].append(place.length)
    for made_by, of_maker in by_maker.items():
        sizes[describe(shards.settings_of(made_by))] += of_maker
    for path in old.paths(folder):
        with still_there():  # not migrated meanwhile
            sizes[describe(old.read_settings(path))].append(path.stat().st_size)
    everything = [size for of_name in sizes.values() for size in of_name]
    for name, of_name in [*sorted(sizes.items()), (f"in {folder}", everything)]:
        print(f"{len(of_name):7d} entries {sum(of_name) / 2**20:10.1f} MiB  {name}")


def _settings(folder: Path, lines: Iterable[Line]) -> Mapping[str, Mapping[str, Any] | None]:
    """Return the settings that made the entries in these lines, by their digest."""
    shards = Shards(folder)
    return {made_by: shards.settings_of(made_by) for made_by in {line.place.made_by for line in lines}}


def verify(folder: Path, delete: bool) -> int:
    """Read every entry and print the damaged ones. With `delete`, delete them. Returns how many damaged ones remain.

    Entries that are sound, but that no index names any more, are put into an index again.
    """
    lines = all_lines(folder)
    damaged = 0
    for path in shard_files(folder):
        with still_there():
            damaged += _verify_shard(path, lines.get(path.stem, []), delete)
    wrong = [(path, "its shard is missing") for path in lone_indexes(folder)]
    for path in old.paths(folder):
        try:
            old.read(path)
        except FileNotFoundError:  # it has been migrated meanwhile
            continue
        except (Damaged, OSError) as error:
            wrong.append((path, str(error)))
    for path, why in wrong:
        print(f"damaged: {path} ({why}){', deleted' if delete else ''}")
        damaged += 1
        if delete:
            path.unlink(missing_ok=True)
    left = 0 if delete else damaged
    print(f"{left} damaged entries left in {folder}")
    return left


def _verify_shard(path: Path, lines: Sequence[Line], delete: bool) -> int:
    """Verify a shard, given the lines about it. Returns the number of damaged records that an index names."""
    dropped = {line.place.offset for line in lines if line.kind == DROPPED}
    named = {line.place.offset: line.key for line in lines if line.kind != DROPPED}
    sound = {
        offset: (length, record.key, record.made_by, record.settings is not None)
        for offset, length, record in sound_records(path)
    }
    bad = {at: key for at, key in named.items() if at not in dropped and (at not in sound or sound[at][1] != key)}
    lost = [(offset, *rest) for offset, rest in sound.items() if offset not in named and offset not in dropped]
    if lost:  # look again: another process may have written the lines meanwhile
        known = {line.place.offset for line in all_lines(path.parents[1]).get(path.stem, [])}
        lost = [record for record in lost if record[0] not in known]
    for offset, key in bad.items():
        print(f"damaged: {path}, entry {key} at byte {offset}{', deleted' if delete else ''}")
    if lost:
        index_again(path.parents[1], path.stem, lost)
        print(f"restored: {len(lost)} records of {path}, which its index did not name")
    if delete and (bad or dropped):
        repack(path, lambda offset: offset not in dropped)
    return len(bad)


def migrate(folder: Path) -> int:
    """Move the entries of older versions into shards. Returns the number of damaged ones, which stay as they are."""
    store, moved, damaged = Store(str(folder)), 0, 0
    for path in old.paths(folder):
        try:
            entry, made_by = old.read(path)
        except FileNotFoundError:  # another process has moved it
            continue
        except (Damaged, OSError) as error:
            print(f"damaged: {path} ({error})")
            damaged += 1
            continue
        store.save(path.stem, entry, made_by)
        path.unlink(missing_ok=True)
        moved += 1
        with suppress(OSError):  # unless other entries or claims lie there
            path.parent.rmdir()
    print(f"{moved} entries moved into shards, {damaged} damaged ones left in {folder}")
    return damaged


def prune(folder: Path, older_than_days: float | None, text: str | None, everything: bool) -> None:
    """Delete entries older than some days, or with `text` in their line in `ls`, or all. Also delete leftovers.

    The age of an entry counts from the last write to its shard, by the clock of the file system.
    """
    now = _time_of(folder)

    def goes(path: Path, settings: Mapping[str, Any] | None) -> bool:
        old_enough = older_than_days is not None and now - path.stat().st_mtime > older_than_days * DAY
        return everything or old_enough or (text is not None and text in describe(settings))

    freed, deleted = 0, set[str]()
    lines = all_lines(folder)
    settings = _settings(folder, chain.from_iterable(lines.values()))
    for path in shard_files(folder):
        with still_there():
            there = [line for line in lines.get(path.stem, ()) if line.kind == ENTRY]
            gone = {line.place.offset: line.key for line in there if goes(path, settings[line.place.made_by])}
            if gone or everything:
                freed += repack(path, lambda offset, gone=gone: not everything and offset not in gone)  # type: ignore[misc]
                deleted.update(gone.values())
    for path in old.paths(folder):
        with still_there():
            if goes(path, old.read_settings(path)):
                freed += path.stat().st_size
                deleted.add(path.stem)
                path.unlink()
    for path in [*leftovers(folder, now), *(lone_indexes(folder) if everything else ())]:
        path.unlink(missing_ok=True)
    print(f"{len(deleted)} entries deleted, {freed / 2**20:.1f} MiB freed in {folder}")


def leftovers(folder: Path, now: float) -> Iterator[Path]:
    """Yield the temporary files and claims that killed jobs left: those older than a day."""
    for pattern in ("[0-9a-f][0-9a-f]/.*", "[0-9a-f][0-9a-f]/*.claim", "claims/*", "shards/.*", "manifests/.*"):
        for path in folder.glob(pattern):
            with still_there():
                status = path.lstat()
                if now - status.st_mtime > DAY and not stat.S_ISDIR(status.st_mode):
                    yield path


def _time_of(folder: Path) -> float:
    """Return the time by the clock of a folder's file system, in seconds."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".time-") as probe:
        return Path(probe.name).stat().st_mtime
