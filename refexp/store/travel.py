"""Take a data set's entries to another machine, where its images need not be.

The keys of entries rest on the bytes of images. A manifest in `DIR/manifests` gives the hash of each image, so that a
run with stage=ablate finds the entries of images that are not there.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from refexp.errors import RefexpError
from refexp.files import atomic_path, read_json, write_json
from refexp.store.entries import Store, digest
from refexp.store.old import path_of, read
from refexp.store.records import Damaged
from refexp.store.repack import shard_files, sound_records

log = logging.getLogger(__name__)

Name = tuple[str, int, int]
"""An image: file name, height, width."""


class Manifest(NamedTuple):
    """A data set's images, and what made their entries.

    images: of each split, `id`, `file_name`, `height`, `width` and `fingerprint` of each image.
    settings: of dataset, encoder and proposer.
    """

    images: dict[str, list[dict[str, Any]]]
    settings: dict[str, Any]

    def write(self, folder: Path) -> None:
        """Write it into the store in `folder`. Raises OSError."""
        content = json.loads(json.dumps(self._asdict(), default=str))
        path = folder / "manifests" / f"{digest(content)[:16]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, content)


def fingerprints(folder: Path) -> Mapping[Name, set[str]]:
    """Return the hashes of all images in the manifests of a store. Raises RefexpError for a damaged manifest."""
    found: dict[Name, set[str]] = {}
    for path in _manifests(folder):
        try:
            for image in [image for images in read_json(path)["images"].values() for image in images]:
                name = image["file_name"], image["height"], image["width"]
                found.setdefault(name, set()).add(image["fingerprint"])
        except (KeyError, TypeError, AttributeError):
            raise RefexpError(f"{path} is not a manifest of a store; import the exported store again.") from None
    return found


def _manifests(folder: Path) -> list[Path]:
    return sorted((folder / "manifests").glob("[!.]*.json"))


def copy_entries(store: Store, keys: Iterable[str], out: Path) -> int:
    """Copy entries into the store in the folder `out`, unless it has them. Returns the number of different keys.

    Raises RefexpError for a damaged entry. The store must hold all keys.
    """
    there, wanted = Store(str(out)), dict.fromkeys(keys)
    for key in wanted:
        if there.load(key) is not None:
            continue
        record = store.shards.read(key)
        try:
            if record:
                entry, settings = record.arrays, store.shards.settings_of(record.made_by) or {}
            else:
                entry, settings = read(path_of(Path(store.dir), key))
        except (Damaged, FileNotFoundError):
            raise RefexpError(f"store.dir: entry {key} in {store.dir} is damaged; run stage=extract first.") from None
        there.save(key, entry, settings)
    return len(wanted)


def import_store(folder: Path, source: Path) -> tuple[int, int]:
    """Copy the manifests of an exported store, and the entries that the store in `folder` lacks. Returns their numbers.

    Damaged entries are left out with a warning. Raises RefexpError if `source` holds no manifest, or a damaged one.
    """
    manifests = _manifests(source)
    if not manifests:
        raise RefexpError(f"{source} holds no exported store; make one with: refexp store export {source} dataset=...")
    fingerprints(source)  # raises for a damaged manifest
    store, promised, sound, count = Store(str(folder)), Store(str(source)).shards.places, set[str](), 0
    settings: dict[str, dict[str, Any]] = {}
    for path in shard_files(source):
        for _, _, record in sound_records(path):
            if record.settings is not None:
                settings[record.key] = record.settings
                continue
            sound.add(record.key)
            if store.load(record.key) is None:
                store.save(record.key, record.arrays, settings.get(record.made_by, {}))
                count += 1
    if lost := len(promised.keys() - sound):
        log.warning("%s: %d entries are damaged and were not imported; export them again", source, lost)
    for path in manifests:
        target = folder / path.relative_to(source)
        if not (target.exists() and target.read_bytes() == path.read_bytes()):
            with atomic_path(target) as temporary:
                shutil.copyfile(path, temporary)
    return count, len(manifests)
