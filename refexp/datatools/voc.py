"""Convert PASCAL VOC's XML annotations to one COCO file."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from refexp.data.coco import Record
from refexp.errors import RefexpError, did_you_mean
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
    root = parse(path)
    width, height = (int(_number(root, f"size/{side}", path)) for side in ("width", "height"))
    image = {"id": image_id(name), "file_name": file_name, "width": width, "height": height}
    return image, [{"image_id": image["id"], **record} for record in _objects(root, width, height, path)]


def parse(path: Path) -> ElementTree.Element:
    """Read an XML file without a document type.

    VOC files have none, and refusing it prevents entity attacks (such as "billion laughs").
    Raises RefexpError for a file that is missing, invalid or has a document type.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise RefexpError(
                f"{path} declares a document type, but VOC annotations have none; refexp does not read it."
            )
        return ElementTree.fromstring(text)
    except OSError as error:
        raise RefexpError(f"cannot read {path}: {error.strerror}; unpack the archive again.") from None
    except (ElementTree.ParseError, UnicodeDecodeError) as error:
        raise RefexpError(f"{path} is not valid XML: {error}; unpack the archive again.") from None


def _objects(root: ElementTree.Element, width: int, height: int, path: Path) -> Iterator[Record]:
    for element in root.iterfind("object"):
        name = (element.findtext("name") or "").strip()
        if name not in CATEGORY:
            raise RefexpError(f"{path}: unknown VOC class '{name}'. {did_you_mean(name, CLASSES)}")
        box = _box(element, width, height, path)
        difficult = int((element.findtext("difficult") or "0").strip() == "1")
        yield {
            "category_id": CATEGORY[name],
            "bbox": box,
            "area": box[2] * box[3],
            "difficult": difficult,
            # VOC ignores difficult objects: neither a missed one nor a detection of one counts as an error.
            # COCO's evaluation treats only crowds like this. A crowd is also never a reference.
            "iscrowd": difficult,
        }


def _box(element: ElementTree.Element, width: int, height: int, path: Path) -> list[float]:
    """Convert VOC's first and last pixel, counted from 1, to COCO's x, y, width, height, counted from 0."""
    first_x, first_y, last_x, last_y = (
        _number(element, f"bndbox/{corner}", path) for corner in ("xmin", "ymin", "xmax", "ymax")
    )
    left, top, right, bottom = first_x - 1, first_y - 1, last_x, last_y
    if min(left, top) < -ROUNDING or right > width + ROUNDING or bottom > height + ROUNDING:
        raise RefexpError(
            f"{path}: the box {first_x:g}, {first_y:g} to {last_x:g}, {last_y:g} "
            f"extends beyond the {width} x {height} image."
        )
    left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
    if right <= left or bottom <= top:
        raise RefexpError(f"{path}: the box {first_x:g}, {first_y:g} to {last_x:g}, {last_y:g} is empty.")
    return [left, top, right - left, bottom - top]


def _number(element: ElementTree.Element, tag: str, path: Path) -> float:
    text = element.findtext(tag)
    # float() alone would also accept "nan" and "inf".
    if text is None or not re.fullmatch(r"\s*-?\d+(\.\d*)?(e[+-]?\d+)?\s*", text):
        raise RefexpError(f"{path}: <{tag}> must hold a number, not {text!r}.")
    return float(text)
