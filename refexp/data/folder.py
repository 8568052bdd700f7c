"""A folder of one's own photographs, and references as people have them: a COCO file, or images with a mask each."""

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
from refexp.data.images import has_alpha, opaque, open_upright, to_mask, upright_size
from refexp.errors import RefexpError
from refexp.types import ImageId

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MASK = "_mask.png"
"""`<stem>_mask.png` beside a reference image is its mask: what is not 0."""


class FolderDataset:
    """Photographs without annotations, and references for what is to be found in them.

    images: folder, looked through with the folders in it, or one file. references: a COCO JSON (its annotations may be
    boxes only), or a folder `refs/<class>/` of images with an alpha channel or a `<stem>_mask.png` beside them.
    reference_images: folder of the images of a COCO JSON; None looks beside it and in `images`.
    classes: names to keep, in this order; None keeps all.
    """

    def __init__(
        self, images: str, references: str, reference_images: str | None = None, classes: list[str] | None = None
    ) -> None:
        self.images, self.references = _existing(images, "images"), _existing(references, "references")
        self.reference_images = _existing(reference_images, "reference_images") if reference_images else None
        self.classes = classes

    def load(self) -> Data:
        """Find the images and read the references. Raises RefexpError that names the file or key at fault."""
        classes, references = read_given(self.references, self.reference_images, self.images, self.classes)
        return Data(classes, references, self._targets(references.labels))

    def _targets(self, labels: Mapping[int | str, int]) -> Split:
        """All images, without annotations; an image's id is its file name below the folder."""
        if self.images.is_file():
            root, files = self.images.parent, [self.images]
        else:
            # References kept in a folder of the photographs are not looked through.
            root = self.images
            files = [f for f in image_files(root) if not f.resolve().is_relative_to(self.references.resolve())]
            if not files:
                raise RefexpError(f"images: all images in {root} are references; name a folder of photographs.")
        records: dict[ImageId, Record] = {}
        for path in files:
            name, (width, height) = path.relative_to(root).as_posix(), upright_size(path)
            records[name] = {"id": name, "file_name": name, "width": width, "height": height}
        return Split(str(self.images), records, [], dict(labels), *access(root))


def read_given(
    path: Path, images: Path | None = None, nearby: Path | None = None, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Split]:
    """References from a folder or a COCO file: the class names and the split.

    images: the folder of a COCO file's images; None looks for them beside the file, and in the folder `nearby`.
    """
    if path.is_dir():
        content, images = read_reference_folder(path), path
    else:
        content = read_coco(path)
        if not content["categories"]:
            raise RefexpError(f"{path} names no categories, so there is nothing to look for.")
        images = _folder_of(content, path, images, nearby)
    names, _ = choose_classes(content, content, classes, "dataset.classes")
    return tuple(names), make_split(content, str(path), names, *access(images))


def read_reference_folder(folder: Path) -> dict[str, Any]:
    """`folder/<class>/*` as COCO content: an instance an image, the image's name below `folder` its id."""
    files = image_files(folder)
    masks = {_beside(path) for path in files}
    found: list[tuple[str, str, np.ndarray]] = []
    for path in files:
        name = path.relative_to(folder)
        if path in masks:
            continue
        if len(name.parts) == 1:
            raise RefexpError(f"{path} has no class: put it into a folder named after its class, {folder}/<class>/.")
        found.append((name.parts[0], name.as_posix(), read_reference_mask(path)))
    empty = sorted({f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != "."} - {name for name, *_ in found})
    if empty:
        log.warning("%s: no images in %s", folder, ", ".join(empty))
    return to_content(found)


def to_content(references: Sequence[tuple[str, str, np.ndarray]]) -> dict[str, Any]:
    """(class, image id, mask bool [H, W]) of every reference, each in an image of its own, as COCO content."""
    names = list(dict.fromkeys(name for name, *_ in references))
    content: dict[str, list[Record]] = {"images": [], "annotations": []}
    for name, image, mask in references:
        height, width = mask.shape
        content["images"].append({"id": image, "file_name": image, "width": width, "height": height})
        content["annotations"].append(annotation_of(image, image, names.index(name) + 1, mask))
    return content | {"categories": [{"id": id_, "name": name} for id_, name in enumerate(names, start=1)]}


def read_reference_mask(path: Path) -> np.ndarray:
    """The mask of a reference image, bool [H, W]: `<stem>_mask.png` beside it, or else its alpha channel."""
    image, beside = open_upright(path), _beside(path)
    if beside.is_file():
        mask = to_mask(open_upright(beside))
        if mask.shape != (image.height, image.width):
            raise RefexpError(
                f"{beside} is {mask.shape[1]} x {mask.shape[0]} pixels, {path.name} {image.width} x {image.height}; "
                "a mask must be as large as its image."
            )
        if not mask.any():
            raise RefexpError(f"{beside} is 0 everywhere; what belongs to the thing must be another value.")
        return mask
    mask = opaque(image)
    if mask.all() or not mask.any():
        state = "no alpha channel" if not has_alpha(image) else "an alpha channel that is the same everywhere"
        raise RefexpError(
            f"{path} has {state}, so no mask: make all transparent but the thing, or put a {beside.name} beside it "
            "that is 0 everywhere but on the thing."
        )
    return mask


def _beside(path: Path) -> Path:
    return path.with_name(path.stem + MASK)


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it, by name; hidden files are not looked at. RefexpError if none."""
    everything = sorted(_files_below(folder))
    for path in everything:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
            raise RefexpError(f"{path.parent} holds a file whose name is not UTF-8: {name}; rename it.") from None
    found = [path for path in everything if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() or path.name for path in everything if path.suffix.lower() not in SUFFIXES)
    if not found:
        raise RefexpError(f"{folder} holds no images; what is read: {', '.join(SUFFIXES)}, in folders of it too.")
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        log.warning("%s: files of other kinds passed over: %s", folder, counts)
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """Files in a folder and the folders in it, linked ones too, each of these once."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        folders[:] = [] if real in seen else sorted(name for name in folders if name[0] != ".")
        if real not in seen:
            yield from (Path(path) / name for name in names if name[0] != "." and (Path(path) / name).is_file())
        seen.add(real)


def _folder_of(content: Mapping[str, Any], path: Path, given: Path | None, nearby: Path | None) -> Path:
    """The folder that holds all annotated images of a COCO file."""
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
    raise RefexpError(f"{path}: its images, such as {first}, were not all found in {looked}: reference_images=DIR")


def _usual_places(path: Path) -> list[Path]:
    """Where annotation tools put images: beside the file, in images/, per subset, or the same from one folder up."""
    subset = path.stem.removeprefix("instances_")
    ways = ("", "images", f"images/{subset}", subset)
    return [base / way for base in (path.parent, path.parent.parent) for way in ways]


def _existing(path: str, key: str) -> Path:
    if not Path(path).exists():
        raise RefexpError(f"{key}: no such file or folder: {path}")
    return Path(path)
