"""Published and saved reference sets: read files that list the references, and look them up in a split.

Every reader returns a list of `Listed`. This module does not depend on shots, seeds or masks.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from refexp.data.coco import Split
from refexp.errors import RefexpError, shown
from refexp.inputs.geometry import box_of
from refexp.inputs.records import Record, check_coco, identifier, meaning
from refexp.inputs.texts import decoded, parse_json, read_bytes
from refexp.types import ImageId

FORMATS = (
    "COCO JSON, a k-shot list {class: [{image, bbox}]}, an FsDet seed folder or one of its files, or a pickle "
    "{category id: [{img_id, ann_ids}]}"
)
SEED_FILE = re.compile(r"(?:full_)?box_(\d+)shot_(.+)_train(?:val)?\.(?:json|txt)")
TOLERANCE = 1.5
"""Maximum difference in pixels of x, y, w or h of a listed box.

VOC counts pixels from 1, and conversions differ in whether a box includes its last pixel.
"""


@dataclass(frozen=True)
class Listed:
    """One entry of a reference file.

    image: image id or file name, with any root folder. box: x y w h in pixels. annotation: annotation id.
    name, category: the class, by name, by id or both.
    An entry without box and annotation means every instance of the class in the image.
    """

    image: ImageId
    box: tuple[float, ...] | None = None
    annotation: int | str | None = None
    name: str | None = None
    category: int | str | None = None

    @property
    def whole_image(self) -> bool:
        """Whether the entry means all instances of the class in the image."""
        return self.box is None and self.annotation is None

    @property
    def kind(self) -> str:
        """The name of the class in messages."""
        return self.name if self.name is not None else f"category {self.category}"

    def __str__(self) -> str:
        box = "" if self.box is None else f", box [{', '.join(f'{side:g}' for side in self.box)}]"
        what = f"class {self.kind}" if self.annotation is None else f"annotation {self.annotation} ({self.kind})"
        return f"{what}, image {self.image}{box}"


def read_references(path: Path, shots: int) -> list[Listed]:
    """Read the entries of a file or seed folder, in their order. The format is detected from the content (`FORMATS`).

    shots: selects the files of a seed folder. A single file is read completely.
    Raises RefexpError with the file and the entry at fault.
    """
    listed = _read_seed_folder(path, shots) if path.is_dir() else _read_file(path)
    if not listed:
        raise RefexpError(f"sampler.path: {path} lists no references; supported formats: {FORMATS}.")
    return listed


def _read_file(path: Path) -> list[Listed]:
    data = read_bytes(path, "sampler.path: file")
    # Pickle protocols before 2 have no magic number, so the file name decides.
    if data.startswith(b"\x80") or path.suffix in (".pkl", ".pickle"):
        return _from_pickle(data, path)
    text = decoded(data, path)
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path)
    return _from_image_list(text, path)


def _refuse(path: Path, problem: str) -> NoReturn:
    raise RefexpError(f"sampler.path: {path} {problem}; supported formats: {FORMATS}.")


def _read_seed_folder(folder: Path, shots: int) -> list[Listed]:
    """Read FsDet's `seed33/`. Each class uses the file for this number of shots, the next larger or the largest."""
    files: dict[str, dict[int, Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := SEED_FILE.fullmatch(file.name):
            files.setdefault(match[2], {})[int(match[1])] = file
    if not files:
        _refuse(folder, "contains no full_box_<n>shot_<class>_trainval.json and no box_<n>shot_<class>_train.txt")
    listed = []
    for name, by_shots in files.items():
        available = min((n for n in by_shots if n >= shots), default=max(by_shots))
        listed += [reference for reference in _read_file(by_shots[available]) if reference.name == name]
    return listed


def _from_json(text: str, path: Path) -> list[Listed]:
    content = parse_json(text, path)
    if isinstance(content, dict) and "annotations" in content:
        check_coco(content, str(path))
        return _from_coco(content)
    return _from_k_shot_list(content, path)


def _from_coco(content: dict[str, Any]) -> list[Listed]:
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [
        Listed(a["image_id"], tuple(a["bbox"]), a["id"], names[a["category_id"]], a["category_id"])
        for a in content["annotations"]
    ]


def _from_k_shot_list(content: Any, path: Path) -> list[Listed]:
    """Read `{class: [{"image": path, "bbox": [x, y, w, h]}, ...]}`, the format of the FSOD-VFM references."""
    listed = []
    for name, position, entry in _entries(content, path):
        where = f"sampler.path: {path}: {name}[{position}]"
        image = identifier(entry.get("image")) if isinstance(entry, dict) else None
        if image is None:
            raise RefexpError(f"{where} has no image; each entry must be {{image, bbox}}.")
        box = box_of(entry.get("bbox"))
        if box is None:
            raise RefexpError(f"{where}: bbox must be [x, y, width, height], not {shown(entry.get('bbox'))}.")
        listed.append(Listed(image, tuple(box), name=name))
    return listed


def _entries(content: Any, path: Path) -> list[tuple[Any, int, Any]]:
    """Return class, position and entry for all entries of `{class: [entry, ...]}`."""
    if not isinstance(content, dict) or not all(isinstance(entries, list) for entries in content.values()):
        _refuse(path, "has an unknown format")
    return [(key, position, entry) for key, entries in content.items() for position, entry in enumerate(entries)]


def _from_image_list(text: str, path: Path) -> list[Listed]:
    """Read FsDet's VOC lists: one image per line. Only the file name contains the class."""
    match = SEED_FILE.fullmatch(path.name)
    if match is None:
        _refuse(path, "has an unknown format (the name of an image list must be box_<n>shot_<class>_train.txt)")
    return [Listed(line.strip(), name=match[2]) for line in text.splitlines() if line.strip()]


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles only plain types: dicts, lists, tuples, strings, numbers, bools and None."""

    path: Path

    def find_class(self, module: str, name: str) -> NoReturn:
        # A malicious pickle runs commands through the classes and functions that it names, so none is loaded.
        raise RefexpError(
            f"sampler.path: the pickle {self.path} asks for {module}.{name}, but refexp reads only dicts, lists, "
            "strings and numbers from pickles. Save the file with plain types or as JSON."
        )


def _from_pickle(data: bytes, path: Path) -> list[Listed]:
    """Read the paper's few-shot files: `{category id or class name: [{"img_id": id, "ann_ids": [id, ...]}, ...]}`."""
    unpickler = _PlainUnpickler(io.BytesIO(data))
    unpickler.path = path
    try:
        content = unpickler.load()
    except RefexpError:
        raise
    except Exception as error:  # damaged pickles raise almost any exception
        _refuse(path, f"is not a readable pickle ({type(error).__name__})")
    listed = []
    for key, position, entry in _entries(content, path):
        where = f"sampler.path: {path}: {key}[{position}]"
        if not isinstance(key, (int, str)) or not isinstance(entry, dict):
            raise RefexpError(f"{where} has an unknown format; each entry must be {{img_id, ann_ids}}.")
        image, ids = _first(entry, "img_id", "image_id"), _first(entry, "ann_ids", "ann_id", "id")
        ids = list(ids) if isinstance(ids, (list, tuple)) else [ids]
        if not ids or any(identifier(id_) is None for id_ in [image, *ids]):
            raise RefexpError(f"{where} must have img_id and ann_ids, each a number or a string.")
        by_name, by_id = (key, None) if isinstance(key, str) else (None, key)
        listed += [Listed(image, annotation=id_, name=by_name, category=by_id) for id_ in ids]
    return listed


def _first(entry: dict[Any, Any], *names: str) -> Any:
    """Return the value of the first key that exists. Tools use different keys for the same field."""
    return next((entry[name] for name in names if name in entry), None)


class Lookup:
    """Looks up listed references in the annotations of a split."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.by_id = {annotation["id"]: annotation for annotation in split.annotations}
        self.by_stem: dict[str, list[tuple[Sequence[str], ImageId]]] = {}
        for image_id, record in split.images.items():
            parts = _parts(record["file_name"])
            self.by_stem.setdefault(parts[-1], []).append((parts, image_id))

    def find(self, listed: Listed, label: int) -> list[Record]:
        """Return the annotations that an entry means, in file order. The list is empty if the split lacks the entry.

        label: class index. If the entry has an annotation id, the id decides, and its image and box must match.
        Otherwise the closest box in the image is taken.
        """
        if listed.annotation is not None:
            found = self.by_id.get(meaning(listed.annotation, self.by_id))
            in_image = found is not None and found["image_id"] == meaning(listed.image, self.split.images)
            same = found is not None and in_image and self._label(found) == label
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
        """Return the ids of images with this id, or with this file name and the most parent folders in common."""
        known = meaning(image, self.split.images)
        by_id = [] if known is None else [known]
        if not isinstance(image, str):
            return by_id
        parts = _parts(image)
        named = [(_common_end(parts, other), id_) for other, id_ in self.by_stem.get(parts[-1], ())]
        longest = max((common for common, _ in named), default=0)
        return list(dict.fromkeys(by_id + [id_ for common, id_ in named if common == longest]))


def _parts(file_name: str) -> tuple[str, ...]:
    """Split `a/b/c.jpg` into (a, b, c). The suffix is dropped, because lists and splits can differ in image format."""
    path = PurePosixPath(file_name.replace("\\", "/"))
    return (*path.parent.parts, path.stem)


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many parts two paths have in common at the end. Lists and splits can have different root folders."""
    pairs = list(zip(reversed(one), reversed(other), strict=False))
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))


def _distance(annotation: Record, box: Sequence[float] | None) -> float:
    """Return the largest difference of x, y, w and h in pixels, or 0 if no box is listed."""
    return max((abs(a - b) for a, b in zip(annotation["bbox"], box, strict=True)), default=0.0) if box else 0.0
