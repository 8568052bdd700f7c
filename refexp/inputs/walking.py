"""The files below a folder that are a person's own: what runs, sweeps and the store wrote there is passed over.

The rooms that write those files import this one, so their names are repeated here. A test makes a run and compares.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

RESULT_FOLDERS = ("overlays", "masks", "report", "wandb")
"""The folders in which a run keeps pictures. In a run folder, `memory_bank.png` is one, too."""
OF_STORE = {"shards": re.compile(r"[0-9a-f]{16}\.(shard|index)"), "claims": re.compile(r"[0-9a-f]{64}\.[0-9]+")}
"""The files in each folder of the store."""
OF_OLD_STORE = re.compile(r"[0-9a-f]{64}\.(npz|claim)")
"""The files in a folder `ab` of a store of older versions. Their names begin with the folder's."""

Passed = Mapping[str, Collection[Path]]
"""What was passed over: the folders of each kind ("runs", "sweeps", "stores", "results of the run")."""


def files_below(top: Path) -> tuple[list[Path], Passed]:
    """List the files in a folder and its subfolders, sorted, without hidden files. Returns what was passed over, too.

    Follows links, but visits each folder only once. The folder itself is always searched: of a run in it, only the
    results are passed over.
    """
    files: list[Path] = []
    passed: dict[str, set[Path]] = {}
    seen = set()  # links can form a cycle
    for path, folders, names in os.walk(top, followlinks=True):
        here, real = Path(path), os.path.realpath(path)
        kind = _kind(here, names)
        if real in seen or (kind and here != top):
            folders.clear()
            if kind and real not in seen:
                passed.setdefault(kind, set()).add(here.parent if kind == "stores" else here)
            continue
        seen.add(real)
        own = _pictures(names) | ({*RESULT_FOLDERS, "memory_bank.png"} if kind == "runs" else set())
        if found := own & {*folders, *names}:
            passed.setdefault("results of the run", set()).update(here / name for name in found)
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in own)
        files += (here / name for name in names if name[0] != "." and name not in own and (here / name).is_file())
    return sorted(files), passed


def _kind(folder: Path, names: Collection[str]) -> str | None:
    """Return what refexp keeps in a folder with these files. None if nothing."""
    if _holds_run(folder):
        return "runs"
    if {"sweep.json", "multirun.yaml"} <= {*names}:
        return "sweeps"
    return "stores" if _is_part_of_store(folder, names) else None


def _holds_run(folder: Path) -> bool:
    """Whether a run has its files in this folder, or has begun to write them."""
    has = {name: (folder / name).exists() for name in (".hydra", "config.yaml", "status.json")}
    if has["status.json"]:
        return has[".hydra"] or has["config.yaml"]
    return has["config.yaml"] and any((folder / name).exists() for name in ("metrics.json", "references.json"))


def _is_part_of_store(folder: Path, names: Collection[str]) -> bool:
    """Whether a folder holds files of the store: `shards/1f....shard`, or `ab/ab....npz` of older versions."""
    if folder.name in OF_STORE:
        return any(OF_STORE[folder.name].fullmatch(name) for name in names)
    digits = re.fullmatch("[0-9a-f]{2}", folder.name)
    return bool(digits) and any(OF_OLD_STORE.fullmatch(name) and name.startswith(folder.name) for name in names)


def _pictures(names: Collection[str]) -> set[str]:
    """Return the plots of a summary of runs: each is a PNG with an SVG beside it."""
    if not {"runs.csv", "table.md"} <= {*names}:
        return set()
    return {name for name in names if name.endswith(".png") and f"{name[:-4]}.svg" in names}
