"""Which image file is the mask of which photograph, by the names and places that people use.

A mask of `a.jpg` is called `a_mask.png`, `a.mask.png` or `a.jpg_mask.png` and lies beside it, or is called like it and
lies in a folder `masks`: beside the photograph, or in place of one folder of its path (`images/a.jpg`, `masks/a.png`).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

ENDING = re.compile(r"(.+)[._ -]masks?", re.IGNORECASE)
FOLDERS = ("mask", "masks")


Key = tuple[object, ...]


def photographs_of(files: Sequence[Path], top: Path) -> dict[Path, list[Path]]:
    """Return the masks among the image files below `top`, each with the photographs that it can belong to."""
    folders = {file: file.relative_to(top).parent.parts for file in files}
    places: dict[Key, list[Path]] = defaultdict(list)
    for file in files:
        for name in (file.stem, file.name):
            places[folders[file], name].append(file)
    found = {file: places[folders[file], name] for file in files if (name := _without_ending(file)) != file.stem}
    found = {mask: photographs for mask, photographs in found.items() if photographs}
    with_mask = {photograph for photographs in found.values() for photograph in photographs}
    rest = [file for file in files if file not in found and file not in with_mask and _mask_folder(folders[file]) >= 0]
    if not rest:
        return found
    for file in files:
        if _mask_folder(folders[file]) < 0:
            for i, name in product(range(len(folders[file])), (file.stem, file.name)):
                places[i, _without(folders[file], i), name].append(file)
    for file in rest:
        at, name = _mask_folder(folders[file]), _without_ending(file)
        above = _without(folders[file], at)
        if photographs := places[above, name] + places[at, above, name]:
            found[file] = photographs
    return found


def _without_ending(file: Path) -> str:
    """Return `a` for `a_mask.png`, and the stem of any other name."""
    ending = ENDING.fullmatch(file.stem)
    return ending[1] if ending else file.stem


def _mask_folder(folders: Sequence[str]) -> int:
    """Return the position of the folder `masks` in a path, -1 if there is none."""
    return next((i for i, folder in enumerate(folders) if folder.lower() in FOLDERS), -1)


def _without(folders: tuple[str, ...], i: int) -> tuple[str, ...]:
    return folders[:i] + folders[i + 1 :]
