"""From an annotated box to a mask: the proposer's answer to the box or, where it has none, the box itself."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from refexp.data.coco import Record, Split, has_mask
from refexp.data.images import to_square
from refexp.errors import RefexpError
from refexp.masks import areas, box_mask, to_json
from refexp.proposers.base import Proposer
from refexp.types import ImageId, Target

log = logging.getLogger(__name__)


def boxes_by_image(annotations: Sequence[Record]) -> dict[ImageId, list[Record]]:
    """Those without a mask."""
    found: dict[ImageId, list[Record]] = {}
    for annotation in annotations:
        if not has_mask(annotation):
            found.setdefault(annotation["image_id"], []).append(annotation)
    return found


def complete_boxes(split: Split, image_id: ImageId, annotations: Sequence[Record], proposer: Proposer) -> list[Record]:
    """Annotations of one image, with the masks that the proposer makes of their boxes; where none, the box itself."""
    rgb = split.read(split.images[image_id])
    target = Target(image_id, rgb, to_square(rgb, proposer.image_size))
    corners = [[x, y, x + w, y + h] for x, y, w, h in (annotation["bbox"] for annotation in annotations)]
    masks = proposer.masks_in_boxes(target, torch.tensor(corners, dtype=torch.float32))
    complete = []
    for annotation, mask in zip(annotations, masks, strict=True):
        if not areas([mask])[0]:
            log.warning("%s: no mask in the box of annotation %s; the box serves", split.source, annotation["id"])
            mask = box_mask(annotation["bbox"], target.size)
        complete.append(annotation | {"segmentation": to_json(mask)})
    return complete


def check_box(reference: Record, split: Split) -> None:
    """Raise RefexpError, naming the annotation, for a box that is empty or reaches out of its image."""
    image = split.images[reference["image_id"]]
    x, y, w, h = reference["bbox"]
    # Half a pixel for boxes that were rounded outwards.
    if w <= 0 or h <= 0 or min(x, y) < -0.5 or x + w > image["width"] + 0.5 or y + h > image["height"] + 0.5:
        raise RefexpError(
            f"{split.source}: the box {reference['bbox']} of annotation {reference['id']} is not inside its image "
            f"{image['file_name']} ({image['width']} x {image['height']})."
        )
