"""Masks for annotations that have boxes only, made of the boxes by a proposer (SAM2's box prompts)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from refexp.box_masks import boxes_by_image, check_box, complete_boxes
from refexp.data.coco import Record, Split, make_split, read_coco
from refexp.data.custom import access, check_files, existing_folder
from refexp.errors import RefexpError
from refexp.files import atomic_path
from refexp.progress import track
from refexp.proposers.base import Proposer
from refexp.report.gallery import overlay_name
from refexp.report.overlays import SIDE, Instance, colour, draw, with_caption
from refexp.types import ImageId


def boxes2masks(
    path: Path, images: Path, proposer: Proposer, device: torch.device, overlays: Path | None = None
) -> dict[str, Any]:
    """The COCO file's content, every annotation without a mask completed by one; all else stays as it is.

    overlays: folder for a picture of each image with the boxes and the masks made of them. Raises RefexpError for a
    box that is not inside its image and for an image that is missing, before the proposer is loaded.
    """
    content = read_coco(path)
    names = [category["name"] for category in content["categories"]]
    split = make_split(content, str(path), names, *access(existing_folder(str(images), "--images")))
    lacking = boxes_by_image(split.annotations)
    if not lacking:
        raise RefexpError(f"{path}: every annotation has a mask already; there is nothing to do.")
    for annotation in (annotation for boxes in lacking.values() for annotation in boxes):
        check_box(annotation, split)
    check_files([split.images[image_id] for image_id in lacking], images, str(path))
    proposer.load(device)
    made: dict[int | str, Record] = {}
    for image_id, boxes in track(lacking.items(), len(lacking), "boxes to masks"):
        complete = complete_boxes(split, image_id, boxes, proposer)
        made |= {annotation["id"]: annotation for annotation in complete}
        if overlays:
            picture = with_caption(_draw(split, image_id, complete, names), f"made of boxes by {made_by(proposer)}")
            with atomic_path(overlays / overlay_name(split.images[image_id]["file_name"])) as temporary:
                picture.save(temporary, quality=88)
    content["annotations"] = [made.get(annotation["id"], annotation) for annotation in content["annotations"]]
    info = content.get("info")
    origin = f"{len(made)} masks made of boxes by {made_by(proposer)}"
    return content | {"info": (info if isinstance(info, dict) else {}) | {"boxes2masks": origin}}


def made_by(proposer: Proposer) -> str:
    """Who makes the masks, with the origin of the weights."""
    weights = proposer.provenance()
    return f"{type(proposer).__name__}, weights: {weights.origin}" + (f", {weights.sha256}" if weights.sha256 else "")


def _draw(split: Split, image_id: ImageId, annotations: Sequence[Record], names: Sequence[str]) -> Image.Image:
    rgb = split.read(split.images[image_id])
    labels = [split.labels[annotation["category_id"]] for annotation in annotations]
    instances = [Instance(split.mask(a), label, names[label]) for a, label in zip(annotations, labels, strict=True)]
    picture = draw(rgb, instances)
    pen, scale = ImageDraw.Draw(picture), SIDE / max(rgb.shape[:2])
    for annotation, label in zip(annotations, labels, strict=True):
        x, y, w, h = (side * scale for side in annotation["bbox"])
        pen.rectangle((x, y, x + w, y + h), outline=colour(label), width=2)
    return picture
