"""Convert PASCAL VOC's XML annotations to one COCO file."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refexp.data.coco import Record
from refexp.errors import RefexpError, did_you_mean
from refexp.inputs.foreign import is_difficult, number_in, parse_xml, voc_corners
from refexp.machine.progress import track

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The classes in VOC's order. Their category ids are 1 to 20."""

CATEGORY = {name: id_ for id_, name in enumerate(CLASSES, start=1)}
ROUNDING = 1.0
"""Number of pixels by which a box can extend beyond its image. VOC2012 has fractional corners."""


def convert(devkit: Path, years: Sequence[int], image_set: str) -> dict[str, Any]:
    """Convert the images of `image_set` ("trainval", "test", ...) of these years to COCO content.

    devkit: the folder VOCdevkit. Each `file_name` is relative to it. The annotations have boxes but no masks, because
    VOC's XML has no masks. Raises RefexpError with the file at fault.
    """
    images: list[Record] = []
    annotations: list[Record] = []
    for year in years:
        names = read_image_set(devkit, year, image_set)
        for name in track(names, len(names), f"VOC{year} {image_set}"):
            image, objects = read_annotation(devkit, year, name)
            images.append(image)
            annotations += [{"id": len(annotations) + i, **record} for i, record in enumerate(objects, start=1)]
    return {
        "info": {"description": f"PASCAL VOC {'+'.join(str(year) for year in years)} {image_set}"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for name, id_ in CATEGORY.items()],
    }


def read_image_set(devkit: Path, year: int, image_set: str) -> list[str]:
    """Read the image names without extension, in file order. Raises RefexpError with the file at fault."""
    folder = devkit / f"VOC{year}/ImageSets/Main"
    try:
        lines = (folder / f"{image_set}.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise RefexpError(
            f"no image set {folder / image_set}.txt; {devkit} must contain VOC{year}. "
            f"`refexp data download voc{year}` downloads it (the test set of 2012 was never published)."
        ) from None
    names = [line.split()[0] for line in lines if line.strip()]
    for name in names:
        if not re.fullmatch(r"\d{6}|\d{4}_\d{6}", name):
            raise RefexpError(
                f"{folder / image_set}.txt: '{name}' is not a VOC image name such as 000005 or 2008_000008."
            )
    return names


def image_id(name: str) -> int:
    """VOC2007's 000005 -> 5, VOC2012's 2008_000008 -> 2008000008. Ids do not depend on the sets converted together."""
    return int(name.replace("_", ""))


def read_annotation(devkit: Path, year: int, name: str) -> tuple[Record, list[Record]]:
    """Read a COCO image record, and annotation records without ids. Raises RefexpError with the file at fault."""
    path = devkit / f"VOC{year}/Annotations/{name}.xml"
    file_name = f"VOC{year}/JPEGImages/{name}.jpg"
    if not (devkit / file_name).is_file():
        raise RefexpError(f"{path}: its image {devkit / file_name} is missing; unpack the archive again.")
    root = parse_xml(path)
    width, height = (int(number_in(root, f"size/{side}", path)) for side in ("width", "height"))
    image = {"id": image_id(name), "file_name": file_name, "width": width, "height": height}
    return image, [{"image_id": image["id"], **record} for record in _objects(root, width, height, path)]


def _objects(root: ElementTree.Element, width: int, height: int, path: Path) -> Iterator[Record]:
    for element in root.iterfind("object"):
        name = (element.findtext("name") or "").strip()
        if name not in CATEGORY:
            raise RefexpError(f"{path}: unknown VOC class '{name}'. {did_you_mean(name, CLASSES)}")
        box = _box(element, width, height, path)
        difficult = int(is_difficult(element))
        yield {
            "category_id": CATEGORY[name],
            "bbox": box,
            "area": box[2] * box[3],
            "difficult": difficult,
            # COCO's evaluation treats only crowds like this. A crowd is also never a reference.
            "iscrowd": difficult,
        }


def _box(element: ElementTree.Element, width: int, height: int, path: Path) -> list[float]:
    """Convert VOC's first and last pixel, counted from 1, to COCO's x, y, width, height, counted from 0."""
    left, top, right, bottom = voc_corners(element, path)
    shown = f"{left + 1:g}, {top + 1:g} to {right:g}, {bottom:g}"
    if min(left, top) < -ROUNDING or right > width + ROUNDING or bottom > height + ROUNDING:
        raise RefexpError(f"{path}: the box {shown} extends beyond the {width} x {height} image.")
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise RefexpError(f"{path}: the box {shown} is empty.")
    return [left, top, right - left, bottom - top]
