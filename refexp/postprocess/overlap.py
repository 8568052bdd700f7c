"""How much proposals overlap, which candidates compete, and in which order: what several steps share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
import torch
from pycocotools import mask as coco_mask
from pydantic import Field

from refexp.types import Candidates, Proposals

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

Within = Literal["class", "image"]
"""Which candidates compete: those of a class, or all of the image."""
Rank = Literal["quality", "score", "product"]
"""What orders candidates: the proposal's quality, the candidate's score, or quality x score."""
Shape = Literal["boxes", "masks"]
"""What overlaps: the boxes on the 256 x 256 grid, or the masks at the original size."""
Measure = Literal["iou", "smaller", "covered"]
"""How overlap is measured: the intersection over the union, over the smaller of both, or over the lower-ranked one."""


def competing(candidates: Candidates, within: Within) -> Iterator[torch.Tensor]:
    """Yield the rows of each group of candidates that compete, i64 [n], in rank order. No group is empty."""
    if within == "class":
        for label in candidates.labels.unique():
            yield torch.nonzero(candidates.labels == label)[:, 0]
    elif len(candidates):
        yield torch.arange(len(candidates))


def best_first(candidates: Candidates, proposals: Proposals, by: Rank) -> Candidates:
    """Sort candidates, highest value first. Ties keep their order."""
    quality = proposals.quality[candidates.index]
    values = {"quality": quality, "score": candidates.scores, "product": quality * candidates.scores}[by]
    return candidates.pick(values.argsort(descending=True, stable=True))


def coverage(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """Compute |m_i AND m_j| / |m_i| of the proposals at `index`, f32 [N, N], exactly, from the run-length codes."""
    return torch.from_numpy(_mask_overlap(proposals, index, of_first=True)).float()


def overlaps(proposals: Proposals, index: torch.Tensor, shape: Shape, measure: Measure) -> np.ndarray:
    """Compute the overlaps of the proposals at `index`, f64 [N, N]. Of entry (i, j), j ranks higher.

    Boxes end on their last pixel, so a box of one column or row has no area, and its overlap is 0.
    Cost: N^2 boxes, or N^2 / 2 run-length intersections of masks whose boxes intersect.
    """
    if shape == "boxes":
        return _box_overlap(proposals.boxes_lr[index], measure)
    found = _mask_overlap(proposals, index, of_first=measure != "iou")
    # The intersection over the smaller area is the larger of the two shares.
    return np.maximum(found, found.T) if measure == "smaller" else found


def _mask_overlap(proposals: Proposals, index: torch.Tensor, of_first: bool) -> np.ndarray:
    """The IoU of masks, f64 [N, N], or with `of_first` the share of i that j covers."""
    rles = [proposals.masks[i] for i in index.tolist()]
    # For a "crowd", pycocotools divides by the area of the first mask.
    return np.asarray(coco_mask.iou(rles, rles, [int(of_first)] * len(rles))).reshape(len(rles), len(rles))


def _box_overlap(boxes: torch.Tensor, measure: Measure) -> np.ndarray:
    # In single precision, as torchvision's NMS, so that an overlap is on the same side of a threshold.
    x1, y1, x2, y2 = boxes.numpy().T
    area = (x2 - x1) * (y2 - y1)
    both = _common(x1, x2) * _common(y1, y2)
    whole = {
        "iou": area[:, None] + area - both,
        "smaller": np.minimum(area[:, None], area),
        "covered": np.broadcast_to(area[:, None], both.shape),
    }[measure]
    # Where there is no area to divide by, there is no intersection either.
    return (both / np.maximum(whole, np.finfo(np.float32).tiny)).astype(np.float64)


def _common(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Compute the length that intervals have in common, f32 [N, N]."""
    return np.maximum(np.minimum.outer(last, last) - np.maximum.outer(first, first), 0)
