"""COCO-format annotation files: reading them, checking them, and what an experiment keeps of them."""

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

    source: what messages call it, usually a file. images: COCO image records by id, in file order.
    annotations: COCO records in file order. labels: category id -> class index in [0, K).
    read: image record -> u8 [H, W, 3]. fingerprint: image record -> a hash of the image's content.
    """

    source: str
    images: dict[ImageId, Record]
    annotations: list[Record]
    labels: dict[int | str, int]
    read: Callable[[Record], np.ndarray]
    fingerprint: Callable[[Record], str]

    @cached_property
    def boxes_only(self) -> bool:
        """Whether no annotation comes with a mask: references' masks are then made of their boxes."""
        return not any(has_mask(annotation) for annotation in self.annotations)

    @cached_property
    def by_image(self) -> dict[ImageId, list[Record]]:
        """Every image's annotations in file order; an empty list where there are none."""
        grouped: dict[ImageId, list[Record]] = {image_id: [] for image_id in self.images}
        for annotation in self.annotations:
            grouped[annotation["image_id"]].append(annotation)
        return grouped

    def restrict(self, classes: Sequence[int]) -> Split:
        """Only the classes with these indices, renumbered in the given order; all images stay."""
        new = {old: index for index, old in enumerate(classes)}
        labels = {category: new[label] for category, label in self.labels.items() if label in new}
        return replace(self, labels=labels, annotations=[a for a in self.annotations if a["category_id"] in labels])

    def categories(self, classes: Sequence[str]) -> list[Record]:
        """COCO category records of this split, in class order."""
        return [{"id": id_, "name": classes[label]} for id_, label in sorted(self.labels.items(), key=lambda x: x[1])]

    def reference(self, annotation: Record) -> Reference:
        """The annotation as a reference. Raises RefexpError for a mask that cannot be read."""
        mask = self.mask(annotation) if has_mask(annotation) else None
        label = self.labels[annotation["category_id"]]
        return Reference(annotation["id"], annotation["image_id"], label, tuple(annotation["bbox"]), mask)

    def mask(self, annotation: Record) -> Rle:
        """The annotation's mask as RLE. Raises RefexpError naming file and annotation where there is none."""
        record = self.images[annotation["image_id"]]
        try:
            return annotation_rle(annotation, record["height"], record["width"])
        except ValueError as error:
            raise RefexpError(f"{self.source}: annotation {annotation['id']} {error}") from None


def annotation_of(id_: ImageId, image_id: ImageId, category_id: int, mask: np.ndarray) -> Record:
    """The COCO annotation of a mask, bool [H, W]."""
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
    """What an experiment runs on: K class names, the split that references come from, and the targets."""

    classes: tuple[str, ...]
    references: Split
    targets: Split

    def restrict(self, classes: Sequence[int]) -> Data:
        """Only the classes with these indices, in the given order, in both splits."""
        names = tuple(self.classes[i] for i in classes)
        return Data(names, self.references.restrict(classes), self.targets.restrict(classes))


def read_coco(path: Path) -> dict[str, Any]:
    """Read and check a COCO file. Raises RefexpError that names the file and the record at fault."""

    def refuse(constant: str) -> None:
        raise RefexpError(f"{path} holds {constant}, which is no number in JSON; mend the program that wrote it.")

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
"""What every record must have, and of which type."""


def check_coco(content: Any, source: str) -> None:
    """Raise RefexpError where `content` is not a usable COCO annotation set; fill in missing boxes."""

    def fail(what: str) -> None:
        raise RefexpError(f"{source}: {what}")

    for part, fields in FIELDS.items():
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            fail(f"has no list '{part}'; a COCO file with images, annotations and categories is needed.")
        for position, record in enumerate(content[part]):
            _check_record(record, fields, f"{source}: {part}[{position}]")
        if ids := _repeated(content[part], "id"):
            fail(f"id {ids[0]!r} stands more than once in '{part}'.")
    if not content["images"]:
        fail("holds no images.")
    used = {annotation["category_id"] for annotation in content["annotations"]}
    taken = {category["name"] for category in content["categories"] if category["id"] in used}
    # Some tools list a category for the whole set, without annotations, and it may have the name of a class.
    content["categories"] = [c for c in content["categories"] if c["id"] in used or c["name"] not in taken]
    if names := _repeated(content["categories"], "name"):
        fail(f"two categories are called '{names[0]}'.")

    for record in content["images"]:
        record["file_name"] = record["file_name"].replace("\\", "/")  # as tools on Windows write it
    images = {record["id"]: record for record in content["images"]}
    categories = {record["id"] for record in content["categories"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in images:
            fail(f"annotation {annotation['id']} names image {annotation['image_id']!r}, which is not in 'images'.")
        if annotation["category_id"] not in categories:
            fail(f"annotation {annotation['id']} names category {annotation['category_id']!r}, not in 'categories'.")
        annotation["iscrowd"] = int(annotation.get("iscrowd") not in (None, 0, "", "0"))
        box = annotation.get("bbox")
        if box is None:
            annotation["bbox"] = _box_from_mask(annotation, images[annotation["image_id"]], source)
        elif not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, (int, float)) for side in box):
            fail(f"annotation {annotation['id']}: bbox must be [x, y, width, height], not {box!r}.")


def _repeated(records: Sequence[Record], field: str) -> list[Any]:
    return [value for value, count in Counter(record[field] for record in records).items() if count > 1]


def _check_record(record: Any, fields: dict[str, tuple[type, ...]], where: str) -> None:
    if not isinstance(record, dict):
        raise RefexpError(f"{where} is {record!r}, not a record.")
    missing = [name for name in fields if name not in record]
    if missing:
        raise RefexpError(f"{where} (id {record.get('id')}) lacks {', '.join(missing)}.")
    for name, types in fields.items():
        if not isinstance(record[name], types):
            expected = " or ".join({"int": "a whole number", "str": "a text"}[kind.__name__] for kind in types)
            raise RefexpError(f"{where} (id {record['id']}): {name} must be {expected}, not {record[name]!r}.")


def _box_from_mask(annotation: Record, image: Record, source: str) -> list[float]:
    try:
        return coco_mask.toBbox(annotation_rle(annotation, image["height"], image["width"])).tolist()
    except ValueError as error:
        raise RefexpError(f"{source}: annotation {annotation['id']} has no bbox and {error}") from None


def has_mask(annotation: Record) -> bool:
    """Whether an annotation comes with polygons of at least three corners, or with a run-length code."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        return bool(_polygons(segmentation))
    return isinstance(segmentation, dict) and bool(segmentation.get("counts"))


def _polygons(segmentation: list[Any]) -> list[list[Any]]:
    """The polygons that enclose something, as they are written; one may stand alone, and its corners as pairs."""
    several = all(isinstance(part, list) for part in segmentation)
    if several and len(segmentation) > 2 and all(len(part) == 2 for part in segmentation):
        several = False
    # Fewer than three corners enclose nothing, and four numbers would be taken for a box.
    polygons = segmentation if several else [segmentation]
    return [polygon for polygon in polygons if len(polygon) > 4 or isinstance((polygon or [0])[0], list)]


def _coordinates(polygon: list[Any]) -> list[float]:
    """x1, y1, x2, y2, ... of a polygon. Raises ValueError where it is none: pycocotools would take it, and crash."""
    try:
        numbers = np.asarray(polygon, dtype=np.float64).ravel()
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        raise ValueError("has a polygon that is not [x1, y1, x2, y2, x3, y3, ...].")
    return numbers.tolist()


def annotation_rle(annotation: Record, height: int, width: int) -> Rle:
    """Polygons, compressed or uncompressed RLE -> compressed RLE. Raises ValueError where there is no usable mask."""
    if not has_mask(annotation):
        raise ValueError("has no mask ('segmentation' is missing or empty).")
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        polygons = [_coordinates(polygon) for polygon in _polygons(segmentation)]
        return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    size, counts = segmentation.get("size"), segmentation["counts"]
    if size != [height, width]:
        raise ValueError(f"has an RLE mask of size {size}, its image is {[height, width]}.")
    if isinstance(counts, list):
        # pycocotools trusts the counts, and reads past the mask's end where they do not fill it.
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
    """Class names in order, and the names that only one of the two files knows and that are therefore left out.

    `wanted=None` takes every category that both files know, in the references' order; classes are matched by name.
    Raises RefexpError (naming the config key `key`) for a wanted class that a file lacks.
    """
    in_references = [c["name"] for c in references["categories"]]
    in_targets = [c["name"] for c in targets["categories"]]
    common = [name for name in in_references if name in set(in_targets)]
    if wanted is None:
        if not common:
            raise RefexpError(
                f"references and targets have no category name in common: {in_references[:5]} and {in_targets[:5]} ..."
            )
        return common, sorted(set(in_references) ^ set(in_targets))
    if len(set(wanted)) < len(wanted) or not wanted:
        raise RefexpError(f"{key}: give each class once, and at least one; not {list(wanted)}.")
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
    """A checked COCO dict, restricted to `classes` (by name)."""
    index = {name: label for label, name in enumerate(classes)}
    labels = {c["id"]: index[c["name"]] for c in content["categories"] if c["name"] in index}
    annotations = [a for a in content["annotations"] if a["category_id"] in labels]
    return Split(source, {i["id"]: i for i in content["images"]}, annotations, labels, read, fingerprint)
