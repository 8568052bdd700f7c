"""A folder of your own photos, with references as a COCO file or as images with one mask each."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refexp.data.coco import Data, Record, Split, annotation_of, check_coco, choose_classes, make_split, read_coco
from refexp.data.custom import access, existing_folder
from refexp.errors import MissingData, RefexpError
from refexp.inputs.foreign import FORMS, coco_files, read_foreign
from refexp.inputs.images import upright_size
from refexp.inputs.mask_files import reference_mask
from refexp.inputs.mask_places import photographs_of
from refexp.inputs.names import locate
from refexp.inputs.refusals import Unreadable
from refexp.inputs.walking import files_below
from refexp.types import ImageId

log = logging.getLogger(__name__)

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff",
    ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif",
)  # fmt: skip
MASK = "_mask.png"
"""The ending that messages propose for a mask, as in `<stem>_mask.png`."""
IMAGE_FOLDERS = ("images", "imgs", "img", "jpegimages")
"""Folders that say what is in them. They are no class."""
TABLES = (".json", ".xml", ".csv")
"""Files in which other tools keep annotations."""


class FolderDataset:
    """Photos without annotations, and references of the classes to detect in them.

    images: one file, or a folder that is searched with its subfolders. references: a COCO JSON (boxes without masks are
    allowed), a folder `refs/<class>/` of images with an alpha channel or a mask file each (`inputs/mask_places.py`), or
    a folder with the annotations of another tool (`inputs/foreign.py`).
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
        """Make a split of all images, without annotations."""
        if self.images.is_file():
            return photographs(self.images, [self.images], labels)
        # The references may lie in a subfolder of the photos. They are not targets.
        files = [f for f in image_files(self.images) if not f.resolve().is_relative_to(self.references.resolve())]
        if not files:
            raise RefexpError(f"images: all images in {self.images} are references; set images to a folder of photos.")
        return photographs(self.images, files, labels)


def photographs(source: Path, files: Sequence[Path], labels: Mapping[int | str, int]) -> Split:
    """Make a split of images without annotations. source: one image, or a folder; ids are paths relative to it."""
    folder = source if source.is_dir() else source.parent
    records: dict[ImageId, Record] = {}
    for path in files:
        name = path.relative_to(folder).as_posix()
        try:
            width, height = upright_size(path)
        except (Unreadable, MissingData):  # it is told, or skipped, when all images are tried
            width = height = 0
        records[name] = {"id": name, "file_name": name, "width": width, "height": height}
    return Split(str(source), records, [], dict(labels), *access(folder))


def read_given(
    path: Path, images: Path | None = None, nearby: Path | None = None, classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Split]:
    """Read references from a folder or a COCO file. Returns the class names and the split.

    images: the folder of the images of a COCO file. None searches beside the file and in the folder `nearby`.
    """
    if path.is_dir():
        path, content = read_content(path, images)
    else:
        content = read_coco(path, *without_root(path, image_places(path, images, nearby)))
    if not content["categories"]:
        raise RefexpError(f"{path} has no categories, so there are no classes to detect; add categories.")
    images = path if path.is_dir() else folder_of(content, path, image_places(path, images, nearby))
    names, _ = choose_classes(content, content, classes)
    return tuple(names), make_split(content, str(path), names, *access(images))


def read_content(folder: Path, images: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Read the references in a folder, whatever their form. Returns their COCO file, else the folder, and the content.

    images: the folder of the images of a COCO file; None searches beside it.
    Class folders in which every image has a mask file come first, then the files of annotation tools, then cut-outs.
    """
    files, _ = files_below(folder)
    photographs, masks = _split(folder, files)
    if photographs and all(path in masks and _levels(path, folder) for path in photographs):
        return folder, read_reference_folder(folder)
    found = coco_files(files)
    if len(found) > 1:
        raise RefexpError(f"{folder} has several COCO files; set references to one: {', '.join(map(str, found[:5]))}.")
    if found:
        return found[0], read_coco(found[0], *without_root(found[0], image_places(found[0], images)))
    if content := read_foreign(folder, files, photographs):
        check_coco(content, str(folder))
        return folder, content
    try:
        return folder, read_reference_folder(folder)
    except RefexpError as error:
        if not (unread := [path for path in files if path.suffix.lower() in TABLES]):
            raise
        raise RefexpError(
            f"{error} If {unread[0]} holds annotations, export them as COCO: it is in no form that refexp reads "
            f"(COCO, {', '.join(FORMS)})."
        ) from None


def read_reference_folder(folder: Path) -> dict[str, Any]:
    """Read `folder/<class>/*` as COCO content: one instance per image. The path below `folder` is the image id."""
    photographs, masks = _split(folder, _images(folder))
    found: list[tuple[str, str, np.ndarray]] = []
    for path in photographs:
        name = path.relative_to(folder)
        found.append((_class_of(path, folder), name.as_posix(), read_reference_mask(path, masks.get(path))))
    used = {path.relative_to(folder).parts[0] for path in (*photographs, *masks.values())}
    empty = sorted({f.name for f in folder.iterdir() if f.is_dir() and f.name[0] != "."} - used)
    if empty:
        log.warning("%s: no images in %s", folder, ", ".join(empty))
    return to_content(found)


def _levels(path: Path, folder: Path) -> list[str]:
    """Return the folders above a reference image that can be its class."""
    return [part for part in path.relative_to(folder).parts[:-1] if part.lower() not in IMAGE_FOLDERS]


def _class_of(path: Path, folder: Path) -> str:
    """Return the class of a reference image. Raises RefexpError unless one folder can be it."""
    levels = _levels(path, folder)
    if not levels:
        raise RefexpError(f"{path} has no class: move it into a folder with the name of its class, {folder}/<class>/.")
    if len(levels) > 1:
        raise RefexpError(
            f"{path}: is its class '{levels[0]}' or '{levels[-1]}'? A folder of references has one level of folders, "
            f"{folder}/<class>/; move the images there."
        )
    return levels[0]


def _split(folder: Path, files: Sequence[Path]) -> tuple[list[Path], dict[Path, Path]]:
    """Split the references' images into photographs and their masks by photograph. Raises RefexpError if unsure."""
    images = [path for path in files if path.suffix.lower() in SUFFIXES]
    found = photographs_of(images, folder)
    masks: dict[Path, Path] = {}
    for mask, photographs in found.items():
        if len(photographs) > 1 or photographs[0] in masks:
            several = photographs if len(photographs) > 1 else [masks[photographs[0]], mask]
            what = f"{mask} can be the mask of" if len(photographs) > 1 else f"{photographs[0]} has several masks,"
            raise RefexpError(f"{what} {several[0]} and {several[1]}; keep one, or name the mask <image>{MASK}.")
        masks[photographs[0]] = mask
    return [path for path in images if path not in found], masks


def to_content(references: Sequence[tuple[str, str, np.ndarray]]) -> dict[str, Any]:
    """Make COCO content of (class, image id, mask bool [H, W]) tuples. Each reference has an image of its own."""
    names = list(dict.fromkeys(name for name, *_ in references))
    content: dict[str, list[Record]] = {"images": [], "annotations": []}
    for name, image, mask in references:
        height, width = mask.shape
        content["images"].append({"id": image, "file_name": image, "width": width, "height": height})
        content["annotations"].append(annotation_of(image, image, names.index(name) + 1, mask))
    return content | {"categories": [{"id": id_, "name": name} for id_, name in enumerate(names, start=1)]}


def read_reference_mask(path: Path, beside: Path | None = None) -> np.ndarray:
    """Read the mask of a reference image, bool [H, W]: its mask file `beside`, or else its alpha channel."""
    return reference_mask(path, beside or path.with_name(path.stem + MASK))


def image_files(folder: Path) -> list[Path]:
    """List the photographs in a folder and its subfolders, sorted by name, without hidden files.

    Neither results of runs nor masks of these photographs are among them. Raises RefexpError if there are no images.
    """
    found = _images(folder)
    masks = photographs_of(found, folder)
    if masks:
        log.warning("%s: passed over %d masks, such as %s", folder, len(masks), next(iter(masks)))
    return [path for path in found if path not in masks]


def _images(folder: Path) -> list[Path]:
    """List the images below a folder, without what runs left there. Raises RefexpError if there are none."""
    everything, passed = files_below(folder)
    for path in everything:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            name = os.fsencode(path.name).decode("utf-8", "backslashreplace")
            raise RefexpError(f"{path.parent} contains a file whose name is not UTF-8: {name}; rename it.") from None
    found = [path for path in everything if path.suffix.lower() in SUFFIXES]
    others = Counter(path.suffix.lower() or path.name for path in everything if path.suffix.lower() not in SUFFIXES)
    left_out = ", ".join(f"{kind} ({len(places)}, such as {min(places)})" for kind, places in passed.items())
    if not found:
        but = f" but {left_out}" if left_out else ""
        raise RefexpError(
            f"{folder} and its subfolders contain no images{but}; supported types: {', '.join(SUFFIXES)}."
        )
    if left_out:
        log.warning("%s: passed over what refexp wrote: %s", folder, left_out)
    if others:
        counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        log.warning("%s: skipped files of other types: %s", folder, counts)
    return found


def folder_of(content: Mapping[str, Any], path: Path, places: Sequence[Path]) -> Path:
    """Return the first of these folders that contains all annotated images of a COCO file.

    Names count as written in all folders before other spellings count in one. Raises RefexpError if no folder does.
    """
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    names = [image["file_name"] for image in content["images"] if image["id"] in annotated]
    for folder in places:
        if all((folder / name).is_file() for name in names):
            return folder
    for folder in without_root(path, places):
        if all(locate(folder, name) for name in names):
            return folder
    first = next(name for name in names if not (places[0] / name).is_file())
    looked = ", ".join(str(folder) for folder in places)
    raise RefexpError(
        f"{path}: images are missing, such as {first} (searched: {looked}); set their folder: reference_images=DIR"
    )


def image_places(path: Path, given: Path | None = None, nearby: Path | None = None) -> list[Path]:
    """List the folders that can hold the images of a COCO file: the given one, else the usual ones of annotation tools.

    These are relative to the file's folder and to its parent. nearby: a further folder.
    """
    if given:
        return [existing_folder(str(given), "reference_images")]
    subset = path.stem.removeprefix("instances_")
    ways = ("", "images", f"images/{subset}", subset)
    places = [base / way for base in (path.parent, path.parent.parent) for way in ways] + ([nearby] if nearby else [])
    return [folder for folder in dict.fromkeys(places) if folder.is_dir()]


def without_root(path: Path, places: Sequence[Path]) -> list[Path]:
    """Leave out the folder above a COCO file's: other data may lie in it, with an image of the same name."""
    return [folder for folder in places if folder != path.parent.parent]


def _existing(path: str, key: str) -> Path:
    if not Path(path).exists():
        raise RefexpError(f"{key}: no such file or folder: {path}")
    return Path(path)
