"""COCO annotation files: read them, check them, and turn them into the splits of an experiment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from refexp.errors import MissingData, RefexpError, did_you_mean
from refexp.masks import Rle, areas, boxes_xywh, encode, to_json
from refexp.types import ImageId, Reference

Record = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Images with instance annotations of the chosen classes.

    source: the name of the split in messages, usually its file. images: COCO image records by id, in file order.
    annotations: COCO records in file order. labels: category id -> class index in [0, K).
    read: image record -> u8 [H, W, 3]. fingerprint: image record -> hash of the image's content.
    """

    source: str
    images: dict[ImageId, Record]
    annotations: list[Record]
    labels: dict[int | str, int]
    read: Callable[[Record], np.ndarray]
    fingerprint: Callable[[Record], str]

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

    def categories(self, classes: Sequence[str]) -> list[Record]:
        """Return the COCO category records of this split, in class order."""
        return [{"id": id_, "name": classes[label]} for id_, label in sorted(self.labels.items(), key=lambda x: x[1])]

    def reference(self, annotation: Record) -> Reference:
        """Convert an annotation to a reference. Raises RefexpError if its mask cannot be read."""
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


def read_coco(path: Path) -> dict[str, Any]:
    """Read and check a COCO file. Raises RefexpError with the file and the record at fault."""

    def refuse(constant: str) -> None:
        raise RefexpError(f"{path} contains {constant}, which is not valid JSON; fix the program that wrote it.")

    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (FileNotFoundError, IsADirectoryError):
        raise MissingData(f"annotation file not found: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RefexpError(f"{path} is not valid JSON: {error}") from None
    check_coco(content, str(path))
    return content


IDENTIFIER = (int, str)
FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "images": {"id": IDENTIFIER, "file_name": (str,), "width": (int,), "height": (int,)},
    "annotations": {"id": IDENTIFIER, "image_id": IDENTIFIER, "category_id": IDENTIFIER},
    "categories": {"id": IDENTIFIER, "name": (str,)},
}
"""The required fields of each record and their types."""


def check_coco(content: Any, source: str) -> None:
    """Raise RefexpError if `content` is not a valid COCO annotation set. Adds missing boxes to `content`."""

    def fail(what: str) -> None:
        raise RefexpError(f"{source}: {what}")

    for part, fields in FIELDS.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            fail(f"has no list '{part}'; a COCO file needs the lists images, annotations and categories.")
        for position, record in enumerate(content[part]):
            _check_record(record, fields, f"{source}: {part}[{position}]")
        if ids := _repeated(content[part], "id"):
            fail(f"duplicate id {ids[0]!r} in '{part}'.")
    if not content["images"]:
        fail("contains no images.")
    used = {annotation["category_id"] for annotation in content["annotations"]}
    taken = {category["name"] for category in content["categories"] if category["id"] in used}
    # Some tools add a category for the whole data set. It has no annotations, but it can have the name of a class.
    content["categories"] = [c for c in content["categories"] if c["id"] in used or c["name"] not in taken]
    if names := _repeated(content["categories"], "name"):
        fail(f"duplicate category name '{names[0]}'; rename or merge these categories.")

    for record in content["images"]:
        record["file_name"] = record["file_name"].replace("\\", "/")  # tools on Windows write backslashes
    images = {record["id"]: record for record in content["images"]}
    categories = {record["id"] for record in content["categories"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            fail(f"annotation {annotation['id']}: image_id {annotation['image_id']!r} is not in 'images'.")
        if annotation["category_id"] not in categories:
            fail(f"annotation {annotation['id']}: category_id {annotation['category_id']!r} is not in 'categories'.")
        annotation["iscrowd"] = int(annotation.get("iscrowd") not in (None, 0, "", "0"))
        box = annotation.get("bbox")
        if box is None:
            annotation["bbox"] = _box_from_mask(annotation, images[annotation["image_id"]], source)
        elif not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, (int, float)) for side in box):
            fail(f"annotation {annotation['id']}: bbox must be [x, y, width, height], not {box!r}.")


def _repeated(records: Sequence[Record], field: str) -> list[Any]:
    """Return the values of a field that occur more than once."""
    return [value for value, count in Counter(record[field] for record in records).items() if count > 1]


def _check_record(record: Any, fields: dict[str, tuple[type, ...]], where: str) -> None:
    if not isinstance(record, dict):
        raise RefexpError(f"{where} must be a JSON object, not {record!r}.")
    missing = [name for name in fields if name not in record]
    if missing:
        raise RefexpError(f"{where} (id {record.get('id')}): missing {', '.join(missing)}.")
    for name, types in fields.items():
        if not isinstance(record[name], types):
            expected = " or ".join({"int": "an integer", "str": "a string"}[kind.__name__] for kind in types)
            raise RefexpError(f"{where} (id {record['id']}): {name} must be {expected}, not {record[name]!r}.")


def _box_from_mask(annotation: Record, image: Record, source: str) -> list[float]:
    try:
        return coco_mask.toBbox(annotation_rle(annotation, image["height"], image["width"])).tolist()
    except ValueError as error:
        raise RefexpError(f"{source}: annotation {annotation['id']} has no bbox and {error}") from None


def has_mask(annotation: Record) -> bool:
    """Whether an annotation has a run-length code or polygons of at least three corners."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        return bool(_polygons(segmentation))
    return isinstance(segmentation, dict) and bool(segmentation.get("counts"))


def _polygons(segmentation: list[Any]) -> list[list[Any]]:
    """Return the polygons with an area, unchanged. Accepts a single polygon, and corners written as pairs."""
    several = all(isinstance(part, list) for part in segmentation)
    # [[x, y], [x, y], [x, y], ...] is one polygon with its corners as pairs.
    if several and len(segmentation) > 2 and all(len(part) == 2 for part in segmentation):
        several = False
    # Fewer than three corners have no area, and pycocotools reads four numbers as a box.
    polygons = segmentation if several else [segmentation]
    return [polygon for polygon in polygons if len(polygon) > 4 or isinstance((polygon or [0])[0], list)]


def _coordinates(polygon: list[Any]) -> list[float]:
    """Return x1, y1, x2, y2, ... of a polygon. Raises ValueError for other content, which crashes pycocotools."""
    try:
        numbers = np.asarray(polygon, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError("has an invalid polygon; expected [x1, y1, x2, y2, x3, y3, ...].")
    return numbers.tolist()


def annotation_rle(annotation: Record, height: int, width: int) -> Rle:
    """Convert polygons, compressed or uncompressed RLE to compressed RLE. Raises ValueError without a valid mask."""
    if not has_mask(annotation):
        raise ValueError("has no mask ('segmentation' is missing or empty).")
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        polygons = [_coordinates(polygon) for polygon in _polygons(segmentation)]
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    size, counts = segmentation.get("size"), segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"has an RLE mask of size {size}, but its image has size {[height, width]}.")
    if isinstance(counts, list):
        # pycocotools does not check the counts. It reads beyond the end of the mask if their sum is too small.
        if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != height * width:
            raise ValueError(f"has an RLE mask whose counts do not add up to {height} x {width} pixels.")
        return coco_mask.frPyObjects(segmentation, height, width)
    try:
        rle = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else bytes(counts)}
        coco_mask.decode(rle)
    except (ValueError, TypeError):
        raise ValueError("has a broken RLE mask ('counts' cannot be decoded).") from None
    return rle


def choose_classes(
    references: dict[str, Any], targets: dict[str, Any], wanted: Sequence[str] | None, key: str
) -> tuple[list[str], list[str]]:
    """Return the class names in order, and the names that are left out because only one of the two files has them.

    Classes are matched by name. `wanted=None` takes every category that both files have, in the references' order.
    Raises RefexpError with the config key `key` if a file lacks a wanted class.
    """
    in_references = [c["name"] for c in references["categories"]]
    in_targets = [c["name"] for c in targets["categories"]]
    common = [name for name in in_references if name in set(in_targets)]
    if wanted is None:
        if not common:
            raise RefexpError(
                "references and targets have no common category name; "
                f"references: {in_references[:5]} ..., targets: {in_targets[:5]} ..."
            )
        return common, sorted(set(in_references) ^ set(in_targets))
    if len(set(wanted)) < len(wanted) or not wanted:
        raise RefexpError(f"{key}: list at least one class, and each class only once; not {list(wanted)}.")
    for name in wanted:
        if name not in common:
            where = "targets" if name in in_references else "references" if name in in_targets else "annotations"
            raise RefexpError(f"{key}: class '{name}' is not in the {where}. {did_you_mean(name, common)}")
    return list(wanted), []


def make_split(
    content: dict[str, Any],
    source: str,
    classes: Sequence[str],
    read: Callable[[Record], np.ndarray],
    fingerprint: Callable[[Record], str],
) -> Split:
    """Make a split of a checked COCO dict, restricted to `classes` (by name)."""
    index = {name: label for label, name in enumerate(classes)}
    labels = {c["id"]: index[c["name"]] for c in content["categories"] if c["name"] in index}
    annotations = [a for a in content["annotations"] if a["category_id"] in labels]
    return Split(source, {i["id"]: i for i in content["images"]}, annotations, labels, read, fingerprint)
