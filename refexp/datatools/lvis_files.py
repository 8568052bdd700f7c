"""Convert LVIS v1 annotation files to COCO files, and make its minival with masks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from refexp.errors import MissingData, RefexpError
from refexp.inputs.records import Record, check_coco
from refexp.inputs.texts import read_json


def convert(path: Path) -> dict[str, Any]:
    """Read an LVIS file and add `file_name` ("train2017/000000391895.jpg") to every image. The rest is unchanged.

    Categories keep `frequency`, and images keep `neg_category_ids` and `not_exhaustive_category_ids`, because the LVIS
    evaluation needs these fields. Raises RefexpError with the file and the record at fault.
    """
    content = _read(path)
    for image in content["images"]:
        image["file_name"] = file_name(image, path)
    check_coco(content, str(path))
    return content


def file_name(image: Record, source: Path) -> str:
    """Return the image path in the COCO folder. LVIS's validation set also has images from train2017."""
    found = re.fullmatch(r"https?://.*/(\w+2017/\d+\.jpg)", str(image.get("coco_url")))
    if not found:
        raise RefexpError(
            f"{source}: image {image.get('id')} has no coco_url such as "
            "http://images.cocodataset.org/train2017/000000391895.jpg; this is not an LVIS v1 file."
        )
    return found[1]


def minival(val: Path, listed: Path) -> dict[str, Any]:
    """Return the images and annotations of lvis_v1_val.json whose ids `listed` contains, with their masks.

    Raises RefexpError if an image or annotation is not in lvis_v1_val.json, or differs there.
    """
    content, wanted = convert(val), _read(listed)
    images = {image["id"]: image for image in content["images"]}
    annotations = {annotation["id"]: annotation for annotation in content["annotations"]}
    for image in wanted["images"]:
        if image.get("id") not in images:
            raise RefexpError(f"{listed}: image {image.get('id')} is not in {val}; it is not a minival of this file.")
    for annotation in wanted["annotations"]:
        same = annotations.get(annotation.get("id"))
        if same is None or any(same[key] != annotation.get(key) for key in ("image_id", "category_id")):
            raise RefexpError(
                f"{listed}: annotation {annotation.get('id')} is not in {val} or differs there; "
                "it is not a minival of this file."
            )
    return content | {
        "images": [images[image["id"]] for image in wanted["images"]],
        "annotations": [annotations[annotation["id"]] for annotation in wanted["annotations"]],
    }


def _read(path: Path) -> dict[str, Any]:
    """Read an LVIS file. `read_coco` would take the file names without their folder from the URLs."""
    try:
        content = read_json(path, "annotation file")
    except MissingData as error:
        raise MissingData(f"{error}; run: refexp data download lvis") from None
    for part in ("images", "annotations", "categories"):
        records = content.get(part) if isinstance(content, dict) else None
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise RefexpError(f"{path}: has no list '{part}' of records; expected an LVIS v1 file.")
    return content
