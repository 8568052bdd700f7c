"""Published and saved reference sets: files that say which instances are the references, and finding those in a split.

Every reader gives the same nouns, `Listed`; nothing here knows of shots, seeds or masks.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from refexp.data.coco import IDENTIFIER, Record, Split, read_coco
from refexp.errors import RefexpError
from refexp.types import ImageId

FORMATS = (
    "COCO JSON, a k-shot list {class: [{image, bbox}]}, an FsDet seed folder or one of its files, or a pickle "
    "{category id: [{img_id, ann_ids}]}"
)
SEED_FILE = re.compile(r"(?:full_)?box_(\d+)shot_(.+)_train(?:val)?\.(?:json|txt)")
TOLERANCE = 1.5
"""How far, in pixels, x, y, w or h of a listed box may be off: VOC counts from 1, and its last pixel in or out."""


@dataclass(frozen=True)
class Listed:
    """A reference as a file lists it.

    image: id or file name, below whatever root. box: x y w h in pixels. annotation: its id. With neither box nor
    annotation, every instance of the class in the image is meant. name, category: the class by name, by id or both.
    """

    image: ImageId
    box: tuple[float, ...] | None = None
    annotation: int | str | None = None
    name: str | None = None
    category: int | str | None = None

    @property
    def whole_image(self) -> bool:
        """Whether all instances of the class in the image are meant."""
        return self.box is None and self.annotation is None

    @property
    def kind(self) -> str:
        """What messages call the class."""
        return self.name if self.name is not None else f"category {self.category}"

    def __str__(self) -> str:
        box = "" if self.box is None else f", box [{', '.join(f'{side:g}' for side in self.box)}]"
        what = f"class {self.kind}" if self.annotation is None else f"annotation {self.annotation} ({self.kind})"
        return f"{what}, image {self.image}{box}"


def read_references(path: Path, shots: int) -> list[Listed]:
    """What a file or seed folder lists, in its order; its format is told from its content (`FORMATS`).

    shots: which of a seed folder's files are read; a file alone is read whole.
    Raises RefexpError that names the file, and the entry at fault.
    """
    listed = _read_seed_folder(path, shots) if path.is_dir() else _read_file(path)
    if not listed:
        raise RefexpError(f"sampler.path: {path} lists no references; what can be read: {FORMATS}.")
    return listed


def _read_file(path: Path) -> list[Listed]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RefexpError(f"sampler.path: {path} cannot be read ({error.strerror}).") from None
    # Protocols before 2 have no mark at the start: for those the name has to tell.
    if data.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
        return _from_pickle(data, path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(path, "is neither text nor a pickle")
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path)
    return _from_image_list(text, path)


def _refuse(path: Path, what: str) -> NoReturn:
    raise RefexpError(f"sampler.path: {path} {what}; what can be read: {FORMATS}.")


def _read_seed_folder(folder: Path, shots: int) -> list[Listed]:
    """FsDet's `seed33/`: of each class the file for this many shots, or else the next larger, or else the largest."""
    files: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := SEED_FILE.fullmatch(file.name):
            files.setdefault(match[2], {})[int(match[1])] = file
    if not files:
        _refuse(folder, "holds no full_box_<n>shot_<class>_trainval.json and no box_<n>shot_<class>_train.txt")
    listed = []
    for name, by_shots in files.items():
        best = min((n for n in by_shots if n >= shots), default=max(by_shots))
        listed += [reference for reference in _read_file(by_shots[best]) if reference.name == name]
    return listed


def _from_json(text: str, path: Path) -> list[Listed]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise RefexpError(f"sampler.path: {path} is not valid JSON: {error}") from None
    if isinstance(content, dict) and "annotations" in content:
        return _from_coco(read_coco(path))
    return _from_k_shot_list(content, path)


def _from_coco(content: dict[str, Any]) -> list[Listed]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [
        Listed(a["image_id"], tuple(a["bbox"]), a["id"], names[a["category_id"]], a["category_id"])
        for a in content["annotations"]
    ]


def _from_k_shot_list(content: Any, path: Path) -> list[Listed]:
    """`{class: [{"image": path, "bbox": [x, y, w, h]}, ...]}`, as FSOD-VFM publishes its references."""
    listed = []
    for name, position, entry in _entries(content, path):
        where = f"sampler.path: {path}: {name}[{position}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), IDENTIFIER):
            raise RefexpError(f"{where} names no image; each entry must be {{image, bbox}}.")
        box = entry.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(side) for side in box):
            raise RefexpError(f"{where}: bbox must be [x, y, width, height], not {box!r}.")
        listed.append(Listed(entry["image"], tuple(box), name=name))
    return listed


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _entries(content: Any, path: Path) -> list[tuple[Any, int, Any]]:
    """Class, position and entry of every entry of `{class: [entry, ...]}`."""
    if not isinstance(content, dict) or not all(isinstance(entries, list) for entries in content.values()):
        _refuse(path, "is in no known format")
    return [(key, position, entry) for key, entries in content.items() for position, entry in enumerate(entries)]


def _from_image_list(text: str, path: Path) -> list[Listed]:
    """FsDet's VOC lists: one image a line, the class in the file's name alone."""
    match = SEED_FILE.fullmatch(path.name)
    if match is None:
        _refuse(path, "is in no known format (a list of images is called box_<n>shot_<class>_train.txt)")
    return [Listed(line.strip(), name=match[2]) for line in text.splitlines() if line.strip()]


class _PlainUnpickler(pickle.Unpickler):
    """Reads what needs no class or function to be built: dicts, lists, tuples, texts, numbers, bools, None."""

    path: Path

    def find_class(self, module: str, name: str) -> NoReturn:
        # Calling whatever a pickle names is how one runs commands: nothing is ever looked up.
        raise RefexpError(
            f"sampler.path: the pickle {self.path} asks for {module}.{name}; only plain dicts, lists, texts and "
            "numbers are read from pickles. Save it with plain types, or as JSON."
        )


def _from_pickle(data: bytes, path: Path) -> list[Listed]:
    """The paper's few-shot files: `{category id or class name: [{"img_id": id, "ann_ids": [id, ...]}, ...]}`."""
    unpickler = _PlainUnpickler(io.BytesIO(data))
    unpickler.path = path
    try:
        content = unpickler.load()
    except RefexpError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        _refuse(path, f"is no readable pickle ({type(error).__name__})")
    listed = []
    for key, position, entry in _entries(content, path):
        where = f"sampler.path: {path}: {key}[{position}]"
        if not isinstance(key, IDENTIFIER) or not isinstance(entry, dict):
            raise RefexpError(f"{where} is not in a known format; each entry must be {{img_id, ann_ids}}.")
        image, ids = _first(entry, "img_id", "image_id"), _first(entry, "ann_ids", "ann_id", "id")
        ids = list(ids) if isinstance(ids, (list, tuple)) else [ids]
        if not ids or not all(isinstance(id_, IDENTIFIER) for id_ in [image, *ids]):
            raise RefexpError(f"{where} must hold img_id and ann_ids, each a number or a text.")
        by_name, by_id = (key, None) if isinstance(key, str) else (None, key)
        listed += [Listed(image, annotation=id_, name=by_name, category=by_id) for id_ in ids]
    return listed


def _first(entry: dict[Any, Any], *names: str) -> Any:
    return next((entry[name] for name in names if name in entry), None)


class Lookup:
    """Finds listed references among a split's annotations."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.by_id = {annotation["id"]: annotation for annotation in split.annotations}
        self.by_stem: dict[str, list[tuple[Sequence[str], ImageId]]] = {}
        for image_id, record in split.images.items():
            parts = _parts(record["file_name"])
            self.by_stem.setdefault(parts[-1], []).append((parts, image_id))

    def find(self, listed: Listed, label: int) -> list[Record]:
        """The annotations of this class index that are meant, in file order; none if the split lacks the reference.

        An annotation id decides alone, and its image and box must agree; else it is the closest box of the image.
        """
        if listed.annotation is not None:
            found = self.by_id.get(listed.annotation)
            same = found is not None and found["image_id"] == listed.image and self._label(found) == label
            return [found] if found is not None and same and _distance(found, listed.box) <= TOLERANCE else []
        images = self._images(listed.image)
        instances = [a for image in images for a in self.split.by_image.get(image, ()) if self._label(a) == label]
        if listed.box is None:
            return instances
        instances.sort(key=lambda annotation: _distance(annotation, listed.box))
        return [a for a in instances[:1] if _distance(a, listed.box) <= TOLERANCE]

    def _label(self, annotation: Record) -> int:
        return self.split.labels[annotation["category_id"]]

    def _images(self, image: ImageId) -> list[ImageId]:
        """Ids of the images that may be meant: of this id, or of this file name with most of its folders in common."""
        by_id = [image] if image in self.split.images else []
        if not isinstance(image, str):
            return by_id
        parts = _parts(image)
        named = [(_common_end(parts, other), id_) for other, id_ in self.by_stem.get(parts[-1], ())]
        best = max((common for common, _ in named), default=0)
        return list(dict.fromkeys(by_id + [id_ for common, id_ in named if common == best]))


def _parts(file_name: str) -> tuple[str, ...]:
    """`a/b/c.jpg` -> (a, b, c): lists and splits may stand below different roots, and differ in the image format."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    return (*path.parent.parts, path.stem)


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = list(zip(reversed(one), reversed(other), strict=False))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _distance(annotation: Record, box: Sequence[float] | None) -> float:
    """The largest difference of x, y, w, h in pixels; 0 where no box is listed."""
    return max((abs(a - b) for a, b in zip(annotation["bbox"], box, strict=True)), default=0.0) if box else 0.0
