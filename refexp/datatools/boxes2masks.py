"""Make masks for annotations that have only boxes. A proposer makes them from the boxes (SAM2: box prompts)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

from refexp.data.coco import Split, make_split, read_coco
from refexp.data.custom import access, check_files, existing_folder
from refexp.errors import RefexpError
from refexp.files import write_picture
from refexp.machine.networks import load_network
from refexp.machine.progress import track
from refexp.masks import to_json
from refexp.method.box_masks import complete, without_mask
from refexp.proposers.base import Proposer
from refexp.show.gallery import QUALITY, overlay_name
from refexp.show.instances import Instance
from refexp.show.overlays import SIDE, color, draw, with_captions
from refexp.types import ImageId, Reference


def boxes2masks(
    path: Path, images: Path, proposer: Proposer, device: torch.device, overlays: Path | None = None
) -> dict[str, Any]:
    """Return the content of the COCO file with a mask added to every annotation without one. The rest is unchanged.

    overlays: folder for a picture of each image with its boxes and the new masks.
    Raises RefexpError for a missing image, before it loads the proposer.
    """
    content = read_coco(path, existing_folder(str(images), "--images"))
    names = [category["name"] for category in content["categories"]]
    split = make_split(content, str(path), names, *access(images))
    lacking = without_mask(split.reference(annotation) for annotation in split.annotations)
    if not lacking:
        raise RefexpError(f"{path}: every annotation already has a mask; boxes2masks is not needed.")
    check_files([split.images[image_id]["file_name"] for image_id in lacking], images, str(path), "--images")
    load_network(proposer, device)
    made: dict[ImageId, dict[str, Any]] = {}
    for image_id, boxes in track(lacking.items(), len(lacking), "boxes to masks"):
        masked = complete(split, boxes, proposer)
        made |= {one.id: {"segmentation": to_json(one.known_mask)} for one in masked}
        if overlays:
            drawn = _draw(split, image_id, masked, names)
            picture = with_captions((drawn, f"made of boxes by {made_by(proposer)}"))
            name = overlay_name(split.images[image_id]["file_name"])
            write_picture(overlays / name, picture, quality=QUALITY)
    content["annotations"] = [annotation | made.get(annotation["id"], {}) for annotation in content["annotations"]]
    info = content.get("info")
    origin = f"{len(made)} masks made of boxes by {made_by(proposer)}"
    return content | {"info": (info if isinstance(info, dict) else {}) | {"boxes2masks": origin}}


def made_by(proposer: Proposer) -> str:
    """Describe the proposer and the origin of its weights, for the output file."""
    weights = proposer.provenance()
    return f"{type(proposer).__name__}, weights: {weights.origin}" + (f", {weights.sha256}" if weights.sha256 else "")


def _draw(split: Split, image_id: ImageId, boxes: Sequence[Reference], names: Sequence[str]) -> Image.Image:
    rgb = split.read(split.images[image_id])
    shown = [Instance(image_id, row, b.label, b.box, b.mask, text=names[b.label]) for row, b in enumerate(boxes)]
    picture = draw(rgb, shown)
    pen, scale = ImageDraw.Draw(picture), SIDE / max(rgb.shape[:2])
    for one in shown:
        x, y, w, h = (side * scale for side in one.box)
        pen.rectangle((x, y, x + w, y + h), outline=color(one.label), width=2)
    return picture
