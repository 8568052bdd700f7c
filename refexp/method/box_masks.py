"""From an annotated box to a mask: the proposer's answer to the box or, where it has none, the box itself."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from refexp.data.coco import Split
from refexp.inputs.images import to_square
from refexp.masks import areas, box_mask
from refexp.method.contract import check_box_masks
from refexp.proposers.base import Proposer
from refexp.types import ImageId, Reference, Target

log = logging.getLogger(__name__)


def without_mask(references: Iterable[Reference]) -> dict[ImageId, list[Reference]]:
    """By image, those of which only a box is annotated."""
    found: dict[ImageId, list[Reference]] = {}
    for reference in references:
        if reference.mask is None:
            found.setdefault(reference.image_id, []).append(reference)
    return found


def complete(split: Split, references: Sequence[Reference], proposer: Proposer) -> list[Reference]:
    """References of one image, each with the mask that the proposer makes of its box; where none, the box itself."""
    image_id = references[0].image_id
    rgb = split.read(split.images[image_id])
    target = Target(image_id, rgb, to_square(rgb, proposer.image_size))
    corners = [[x, y, x + w, y + h] for x, y, w, h in (reference.box for reference in references)]
    boxes = torch.tensor(corners, dtype=torch.float32)
    masks = check_box_masks(proposer, proposer.masks_in_boxes(target, boxes), target, len(boxes))
    found = []
    for reference, mask in zip(references, masks, strict=True):
        if not areas([mask])[0]:
            log.warning("%s: no mask in the box of annotation %s; the box serves", split.source, reference.id)
            mask = box_mask(reference.box, target.size)
        found.append(replace(reference, mask=mask))
    return found
