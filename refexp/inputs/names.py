"""File names of other machines: find the file that a name in an annotation file means.

Annotation files travel: from Windows, from a Mac that decomposes accents, from a web server that quotes blanks, or to a
folder where the images were converted or sorted into subfolders. A name counts as written. Where there is no such file,
other spellings of it are tried, each only where a single file below the folder fits.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from refexp.errors import MissingData, shown
from refexp.inputs.mask_places import FOLDERS
from refexp.inputs.repairs import repaired

MOST = 200_000
"""Files of a folder that are compared with a name. COCO's largest folder has 123,000."""
MASK_FOLDERS = (*FOLDERS, "segmentationclass", "segmentationobject")
SUFFIX = re.compile(r"\.(jpe?g|jpe|jfif|jp2|png|gif|bmp|webp|tiff?|p[bgnp]m|avif|hei[cf])$")
QUERY = re.compile(r"(?<=\.\w{3})\?.*$|(?<=\.\w{4})\?.*$", re.DOTALL)
"""What follows the file in a URL: `a.jpg?width=640`. Some downloads keep it in the file's name."""


def _composed(name: str) -> str:
    """Return the name with composed accents, without quoting, outer blanks, a drive, a URL's query and `./`."""
    name = unicodedata.normalize("NFC", unquote(QUERY.sub("", name))).replace("\\", "/")
    parts = [part.strip() for part in re.sub(r"^[A-Za-z]:", "", name).split("/")]
    return "/".join(part for part in parts if part not in ("", "."))


def _without_case(name: str) -> str:
    return _composed(name).casefold()


def _without_suffix(name: str) -> str:
    return SUFFIX.sub("", _without_case(name))


def _last(spell: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: spell(name).rsplit("/", 1)[-1]


SPELLINGS = (
    _composed, _without_case, _without_suffix, _last(_composed), _last(_without_case), _last(_without_suffix),
)  # fmt: skip
"""Ways to read a name, from the strictest on. The last three look at the name without its folders."""


def locate(folder: Path, name: str) -> Path | None:
    """Return the file below `folder` that a name means. None if there is none, or if several files fit."""
    try:
        if (folder / name).is_file():
            return folder / name
    except (OSError, ValueError):  # too long for the file system, or with a null character
        return None
    for number, spell in enumerate(SPELLINGS):
        fitting = _index(folder, number).get(spell(name), []) if spell(name) else []
        fitting = [file for file in fitting if not _is_mask(file) or _is_mask(name)]
        if len(fitting) == 1:
            return folder / fitting[0]
    return None


def _is_mask(name: str) -> bool:
    """Whether a file lies in a folder of masks. It has the name of its photograph, but does not replace it."""
    return any(part.lower() in MASK_FOLDERS for part in name.replace("\\", "/").split("/")[:-1])


@lru_cache(maxsize=16)
def _files(folder: Path) -> tuple[str, ...]:
    """List the first MOST files below a folder, relative to it. Only needed where a name does not fit as written."""
    return tuple(islice(_walk(folder), MOST))


def _walk(folder: Path) -> Iterator[str]:
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        relative = os.path.relpath(path, folder).replace(os.sep, "/")
        yield from (name if relative == "." else f"{relative}/{name}" for name in sorted(names) if name[0] != ".")


@lru_cache(maxsize=64)
def _index(folder: Path, spelling: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for file in _files(folder):
        found.setdefault(SPELLINGS[spelling](file), []).append(file)
    return found


SPELLING = "image found under another spelling of its name"
OF_REFERENCE = "image of a reference found under another spelling of its name"
"""Kinds of repairs. The second is noted for the references that a run uses, when they are drawn."""

images_elsewhere: ContextVar[bool] = ContextVar("images_elsewhere", default=False)
"""Whether missing images are not an error, because a manifest of the store has their hashes (`store/travel.py`)."""


def tell_spelling(name: str, path: Path, folder: Path, source: str, what: str = SPELLING) -> None:
    """Note a file that was found under another spelling of its name."""
    if path != folder / name:
        repaired(what, f"{source}, {shown(name)} is {shown(path.relative_to(folder).as_posix())}")


def check_files(names: Iterable[str], folder: Path, source: str, key: str = "dataset.images") -> None:
    """Note the images that are found under another spelling of their names.

    Raises MissingData with the number of missing images, the first of them and the most similar name that is there.
    """
    missing = []
    for name in names:
        path = locate(folder, name)
        if path is None:
            missing.append(name)
        tell_spelling(name, path or folder / name, folder, source)
    if missing and not images_elsewhere.get():
        there = {file.rsplit("/", 1)[-1]: file for file in _files(folder)}
        near = difflib.get_close_matches(PurePosixPath(missing[0]).name, list(there)[:10_000], n=1)
        similar = f" The most similar file there is {shown(there[near[0]])}." if near else ""
        raise MissingData(
            f"{len(missing)} of the images in {source} are not in {folder}, first {shown(missing[0])}; "
            f"check {key} and the file names.{similar}"
        )
