"""A folder of your own photos, with references as a COCO file or as images with one mask each."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refexp.data.coco import Data, Record, Split, annotation_of, choose_classes, make_split, read_coco
from refexp.data.custom import access, existing_folder
from refexp.errors import MissingData, RefexpError
from refexp.inputs.images import upright_size
from refexp.inputs.mask_files import reference_mask
from refexp.inputs.refusals import Unreadable
from refexp.types import ImageId

log = logging.getLogger(__name__)

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif",
)  # fmt: skip
MASK = "_mask.png"
"""`<stem>_mask.png` beside a reference image is its mask. Pixels with a non-zero value belong to the object."""


class FolderDataset:
    """Photos without annotations, and references of the classes to detect in them.

    images: one file, or a folder that is searched with its subfolders. references: a COCO JSON (boxes without masks are
    allowed), or a folder `refs/<class>/` of images with an alpha channel or a `<stem>_mask.png` beside them.
    reference_images: folder of the images of a COCO JSON. None searches beside the JSON and in `images`.
    classes: names to keep, in this order. None keeps all.
    """

    def __init__(
        self, images: str, references: str, reference_images: str | None = None, classes: list[str] | None = None
    ) -> None:
        self.images, self.references = _existing(images, "images"), _existing(references, "references")
        self.reference_images = _existing(reference_images, "reference_images") if reference_images else None
        self.classes = classes

    def load(self) -> Data:
        """List the images and read the references. Raises RefexpError with the file or config key at fault."""
        classes, references = read_given(self.references, self.reference_images, self.images, self.classes)
        return Data(classes, references, self._targets(references.labels))

    def _targets(self, labels: Mapping[int | str, int]) -> Split:
        """Make a split of all images, without annotations. The id of an image is its path relative to the folder."""
        if self.images.is_file():
            root, files = self.images.parent, [self.images]
        else:
            # The references may lie in a subfolder of the photos. They are not targets.
            root = self.images
            files = [f for f in image_files(root) if not f.resolve().is_relative_to(self.references.resolve())]
            if not files:
                raise RefexpError(f"images: all images in {root} are references; set images to a folder of photos.")
        records: dict[ImageId, Record] = {}
        for path in files:
            name = path.relative_to(root).as_posix()
            try:
                width, height = upright_size(path)
            except (Unreadable, MissingData):  # it is told, or skipped, when all images are tried
                width = height = 0
            records[name] = {"id": name, "file_name": name, "width": width, "height": height}
        return Split(str(self.images), records, [], dict(labels), *access(root))


def read_given(
    path: Path, images: Path | None = None, nearby: Path | None = None, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Split]:
    """Read references from a folder or a COCO file. Returns the class names and the split.

    images: the folder of the images of a COCO file. None searches beside the file and in the folder `nearby`.
    """
    if path.is_dir():
        content, images = read_reference_folder(path), path
    else:
        content = read_coco(path)
        if not content["categories"]:
            raise RefexpError(f"{path} has no categories, so there are no classes to detect; add categories.")
        images = _folder_of(content, path, images, nearby)
    names, _ = choose_classes(content, content, classes, "dataset.classes")
    return tuple(names), make_split(content, str(path), names, *access(images))


def read_reference_folder(folder: Path) -> dict[str, Any]:
    """Read `folder/<class>/*` as COCO content: one instance per image. The path below `folder` is the image id."""
    files = image_files(folder)
    masks = {_beside(path) for path in files}
    found: list[tuple[str, str, np.ndarray]] = []
    for path in files:
        name = path.relative_to(folder)
        if path in masks:
            continue
        if len(name.parts) == 1:
            raise RefexpError(
                f"{path} has no class: move it into a folder with the name of its class, {folder}/<class>/."
            )
        found.append((name.parts[0], name.as_posix(), read_reference_mask(path)))
    empty = sorted({f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != "."} - {name for name, *_ in found})
    if empty:
        log.warning("%s: no images in %s", folder, ", ".join(empty))
    return to_content(found)


def to_content(references: Sequence[tuple[str, str, np.ndarray]]) -> dict[str, Any]:
    """Make COCO content of (class, image id, mask bool [H, W]) tuples. Each reference has an image of its own."""
    names = list(dict.fromkeys(name for name, *_ in references))
    content: dict[str, list[Record]] = {"images": [], "annotations": []}
    for name, image, mask in references:
        height, width = mask.shape
        content["images"].append({"id": image, "file_name": image, "width": width, "height": height})
        content["annotations"].append(annotation_of(image, image, names.index(name) + 1, mask))
    return content | {"categories": [{"id": id_, "name": name} for id_, name in enumerate(names, start=1)]}


def read_reference_mask(path: Path) -> np.ndarray:
    """Read the mask of a reference image, bool [H, W]: `<stem>_mask.png` beside it, or else its alpha channel."""
    return reference_mask(path, _beside(path))


def _beside(path: Path) -> Path:
    """Return the path of the mask file of a reference image."""
    return path.with_name(path.stem + MASK)


def image_files(folder: Path) -> list[Path]:
    """List the images in a folder and its subfolders, sorted by name, without hidden files.

    Raises RefexpError if there are no images.
    """
    everything = sorted(_files_below(folder))
    for path in everything:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
            raise RefexpError(f"{path.parent} contains a file whose name is not UTF-8: {name}; rename it.") from None
    found = [path for path in everything if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() or path.name for path in everything if path.suffix.lower() not in SUFFIXES)
    if not found:
        raise RefexpError(f"{folder} and its subfolders contain no images; supported types: {', '.join(SUFFIXES)}.")
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        log.warning("%s: skipped files of other types: %s", folder, counts)
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders. Follows links, but visits each folder only once."""
    seen = set()  # links can form a cycle
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != ".")
        if real not in seen:
            yield from (Path(path) / name for name in names if name[0] != "." and (Path(path) / name).is_file())
        seen.add(real)


def _folder_of(content: Mapping[str, Any], path: Path, given: Path | None, nearby: Path | None) -> Path:
    """Return the folder that contains all annotated images of a COCO file. Raises RefexpError if none does."""
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    names = [image["file_name"] for image in content["images"] if image["id"] in annotated]
    places = (
        [existing_folder(str(given), "reference_images")]
        if given
        else _usual_places(path) + ([nearby] if nearby else [])
    )
    for folder in places:
        if all((folder / name).is_file() for name in names):
            return folder
    first = next(name for name in names if not (places[0] / name).is_file())
    looked = ", ".join(dict.fromkeys(str(folder) for folder in places if folder.is_dir()))
    raise RefexpError(
        f"{path}: images are missing, such as {first} (searched: {looked}); set their folder: reference_images=DIR"
    )


def _usual_places(path: Path) -> list[Path]:
    """List the usual image folders of annotation tools, relative to the file's folder and to its parent."""
    subset = path.stem.removeprefix("instances_")
    ways = ("", "images", f"images/{subset}", subset)
    return [base / way for base in (path.parent, path.parent.parent) for way in ways]


def _existing(path: str, key: str) -> Path:
    if not Path(path).exists():
        raise RefexpError(f"{key}: no such file or folder: {path}")
    return Path(path)
