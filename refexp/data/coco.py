"""COCO annotation files: read them, check them, and turn them into the splits of an experiment."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from refexp.errors import RefexpError, did_you_mean
from refexp.inputs.frames import FileSize, settle_contradiction
from refexp.inputs.geometry import Shape, outside, shape_of
from refexp.inputs.images import file_sizes
from refexp.inputs.records import Record, check_coco
from refexp.inputs.texts import read_json
from refexp.masks import Rle, areas, boxes_xywh, encode, to_json
from refexp.types import ImageId, Reference

FAR = 10
"""Beyond this many sides outside its image, a polygon would crash pycocotools."""


@dataclass(frozen=True)
class Split:
    """Images with instance annotations of the chosen classes.

    source: the name of the split in messages, usually its file. images: COCO image records by id, in file order.
    annotations: COCO records in file order. labels: category id -> class index in [0, K).
    places: category id -> place among all categories of the file, from 0, whatever the classes.
    read: image record -> u8 [H, W, 3]. fingerprint: image record -> hash of the image's content.
    size: image record -> size of the image's file, None without a file.
    read_hashed: image record -> the image, and the hash of the very bytes that it was decoded from: a file can be
        replaced between `fingerprint` and `read`. None for images that are not files.
    tell_name: image record -> None; notes the repair if the image is found under another spelling of its name.
    """

    source: str
    images: dict[ImageId, Record]
    annotations: list[Record]
    labels: dict[int | str, int]
    read: Callable[[Record], np.ndarray]
    fingerprint: Callable[[Record], str]
    size: Callable[[Record], FileSize | None] = lambda record: None
    read_hashed: Callable[[Record], tuple[np.ndarray, str]] | None = None
    places: dict[int | str, int] = field(default_factory=dict)
    tell_name: Callable[[Record], None] = lambda record: None

    @cached_property
    def boxes_only(self) -> bool:
        """Whether no annotation has a mask. The proposer then makes the masks of the references from their boxes."""
        return not any(has_mask(annotation) for annotation in self.annotations)

    @cached_property
    def by_image(self) -> dict[ImageId, list[Record]]:
        """The annotations of each image, in file order. The list is empty for an image without annotations."""
        grouped: dict[ImageId, list[Record]] = {image_id: [] for image_id in self.images}
        for annotation in self.annotations:
            grouped[annotation["image_id"]].append(annotation)
        return grouped

    def restrict(self, classes: Sequence[int]) -> Split:
        """Keep only the classes with these indices, renumbered in the given order. All images stay."""
        new = {old: index for index, old in enumerate(classes)}
        labels = {category: new[label] for category, label in self.labels.items() if label in new}
        return replace(self, labels=labels, annotations=[a for a in self.annotations if a["category_id"] in labels])

    @cached_property
    def _settled(self) -> set[ImageId]:
        """The images whose size was compared with their file's."""
        return set()

    def first(self, limit: int | None) -> Split:
        """Keep only the first images, in file order, and their annotations. None keeps all."""
        if limit is None or limit >= len(self.images):
            return self
        images = dict(islice(self.images.items(), limit))
        return replace(self, images=images, annotations=[a for a in self.annotations if a["image_id"] in images])

    def categories(self, classes: Sequence[str]) -> list[Record]:
        """Return the COCO category records of this split, in class order."""
        return [{"id": id_, "name": classes[label]} for id_, label in sorted(self.labels.items(), key=lambda x: x[1])]

    def settle_size(self, record: Record) -> None:
        """Compare the written size of an image with its file's. Raises Unreadable if they cannot be reconciled."""
        if record["id"] in self._settled:  # several references may lie in one image
            return
        file = self.size(record)
        if file and (record["height"], record["width"]) not in file:
            settle_contradiction(record, file, self.by_image[record["id"]], self.source)
        self._settled.add(record["id"])

    def hashed(self, record: Record) -> tuple[np.ndarray, str]:
        """Read an image, u8 [H, W, 3], and return the hash of the very bytes that it was decoded from."""
        return self.read_hashed(record) if self.read_hashed else (self.read(record), self.fingerprint(record))

    def noting(self, hashes: dict[ImageId, str]) -> Split:
        """Return this split with a `read` that notes the hash of what it decodes, by image id."""

        def read(record: Record) -> np.ndarray:
            rgb, hashes[record["id"]] = self.hashed(record)
            return rgb

        return replace(self, read=read)

    def reference(self, annotation: Record) -> Reference:
        """Convert an annotation to a reference. Raises RefexpError if its mask cannot be read."""
        self.settle_size(self.images[annotation["image_id"]])
        mask = self.mask(annotation) if has_mask(annotation) else None
        label = self.labels[annotation["category_id"]]
        return Reference(annotation["id"], annotation["image_id"], label, tuple(annotation["bbox"]), mask)

    def mask(self, annotation: Record) -> Rle:
        """Return the annotation's mask as RLE. Raises RefexpError with file and annotation if it has no mask."""
        record = self.images[annotation["image_id"]]
        try:
            return annotation_rle(annotation, record["height"], record["width"])
        except ValueError as error:
            raise RefexpError(f"{self.source}: annotation {annotation['id']} {error}") from None


def annotation_of(id_: ImageId, image_id: ImageId, category_id: int, mask: np.ndarray) -> Record:
    """Make a COCO annotation of a mask, bool [H, W]."""
    (rle,) = encode(mask[None])
    return {
        "id": id_,
        "image_id": image_id,
        "category_id": category_id,
        "iscrowd": 0,
        "bbox": boxes_xywh([rle])[0].tolist(),
        "area": int(areas([rle])[0]),
        "segmentation": to_json(rle),
    }


@dataclass(frozen=True)
class Data:
    """The data of an experiment: K class names, the split of the references and the split of the targets."""

    classes: tuple[str, ...]
    references: Split
    targets: Split

    def restrict(self, classes: Sequence[int]) -> Data:
        """Keep only the classes with these indices, in the given order, in both splits."""
        names = tuple(self.classes[i] for i in classes)
        return Data(names, self.references.restrict(classes), self.targets.restrict(classes))


def read_coco(path: Path, *images: Path) -> dict[str, Any]:
    """Read a COCO file and settle its records (`check_coco`).

    images: folders that can hold its images. They are asked for the size of an image where the file's own does not do.
    Raises RefexpError with the file and the record at fault.
    """
    with collector_paused():
        content = read_json(path, "annotation file")
        check_coco(content, str(path), file_sizes(*images) if images else None)
    return content


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's search for unreachable circles: among millions of new records, none of them one, it takes long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def has_mask(annotation: Record) -> bool:
    """Whether an annotation that passed `check_coco` has a mask."""
    return bool(annotation.get("segmentation"))


def annotation_rle(annotation: Record, height: int, width: int) -> Rle:
    """Convert polygons, compressed or uncompressed RLE to compressed RLE. Raises ValueError without a valid mask."""
    shape = shape_of(annotation.get("segmentation"))
    if not isinstance(shape, Shape):
        raise ValueError(f"{shape}." if shape else "has no mask ('segmentation' is missing or empty).")
    if shape.rle is not None:
        if shape.rle["size"] != [height, width]:
            raise ValueError(f"has an RLE mask of size {shape.rle['size']}, but its image has {[height, width]}.")
        return shape.rle
    if shape.extent is None:
        return encode(np.zeros((1, height, width), dtype=bool))[0]
    if outside(shape.extent, height, width) > FAR:
        raise ValueError("has a polygon far outside its image.")
    return coco_mask.merge(coco_mask.frPyObjects(shape.polygons, height, width))


def choose_classes(
    references: dict[str, Any], targets: dict[str, Any], wanted: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """Return the class names in order, and the names that are left out because only one of the two files has them.

    Classes are matched by name. `wanted=None` takes every category that both files have, in the references' order.
    Raises RefexpError if a file lacks a wanted class.
    """
    in_references = [c["name"] for c in references["categories"]]
    in_targets = [c["name"] for c in targets["categories"]]
    common = [name for name in in_references if name in set(in_targets)]
    if wanted is None:
        if not common:
            case = {name.casefold() for name in in_references} & {name.casefold() for name in in_targets}
            hint = "Only capital letters differ: rename the categories of one file." if case else "Are these the files?"
            raise RefexpError(
                "dataset.references and dataset.targets have no common category name; "
                f"references: {in_references[:5]} ..., targets: {in_targets[:5]} .... {hint}"
            )
        return common, sorted(set(in_references) ^ set(in_targets))
    if len(set(wanted)) < len(wanted) or not wanted:
        raise RefexpError(f"dataset.classes: list at least one class, and each class only once; not {list(wanted)}.")
    for name in wanted:
        if name not in common:
            where = "targets" if name in in_references else "references" if name in in_targets else "annotations"
            raise RefexpError(f"dataset.classes: class '{name}' is not in the {where}. {did_you_mean(name, common)}")
    return list(wanted), []


def make_split(
    content: dict[str, Any],
    source: str,
    classes: Sequence[str],
    read: Callable[[Record], np.ndarray],
    fingerprint: Callable[[Record], str],
    size: Callable[[Record], FileSize | None] = lambda record: None,
    read_hashed: Callable[[Record], tuple[np.ndarray, str]] | None = None,
) -> Split:
    """Make a split of a checked COCO dict, restricted to `classes` (by name)."""
    index = {name: label for label, name in enumerate(classes)}
    labels = {c["id"]: index[c["name"]] for c in content["categories"] if c["name"] in index}
    annotations = [a for a in content["annotations"] if a["category_id"] in labels]
    places = {c["id"]: place for place, c in enumerate(content["categories"])}
    images = {image["id"]: image for image in content["images"]}
    return Split(source, images, annotations, labels, read, fingerprint, size, read_hashed, places)
