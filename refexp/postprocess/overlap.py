"""How much proposals overlap, which candidates compete, and in which order: what several steps share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from refexp.kernels.boxes import meeting
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


def best_first(candidates: Candidates, proposals: Proposals, by: Rank) -> Candidates:
    """Sort candidates, highest value first. Ties keep their order."""
    values = candidates.scores if by == "score" else proposals.quality[candidates.index]
    if by == "product":
        values = values * candidates.scores
    return candidates.pick(values.argsort(descending=True, stable=True))


def groups(candidates: Candidates, within: Within) -> tuple[np.ndarray, np.ndarray]:
    """Bring together the candidates that compete.

    Returns:
        The rows of the candidates, i64 [N], group by group, in rank order within each; and where each group begins in
        them, and N: i64 [groups + 1].
    """
    count = len(candidates)
    if within == "image":
        return np.arange(count), np.array([0, count])
    labels = candidates.labels.numpy()
    labels = labels.astype(np.min_scalar_type(labels.max(initial=0)))  # sorting is linear for up to 16 bits
    order = labels.argsort(kind="stable")
    labels = labels[order]
    return order, np.concatenate([[0], 1 + np.flatnonzero(labels[1:] != labels[:-1]), [count]])


@dataclass(frozen=True)
class Pairs:
    """The pairs of candidates that compete and overlap.

    order: i64 [N]. starts: i64 [groups + 1]. See `groups`.
    low, high: i32 [P], places in `order`. `high` ranks above `low`. Sorted by low, then by high.
    both: the size of each pair's intersection, [P]. size: the size of each candidate in `order`, [N]. They are f32 for
        boxes, as in torchvision's NMS, so that an overlap is on the same side of a threshold, and f64 for masks.
    """

    order: np.ndarray
    starts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    both: np.ndarray
    size: np.ndarray

    def share(self, measure: Measure, of: Literal["low", "high"] = "low") -> np.ndarray:
        """Compute the overlap of each pair, f64 [P]. of: whose share "covered" is."""
        one, other = (self.low, self.high) if of == "low" else (self.high, self.low)
        whole = self.size[one]
        if measure == "iou":
            whole = whole + self.size[other] - self.both
        elif measure == "smaller":
            whole = np.minimum(whole, self.size[other])
        return (self.both / whole).astype(np.float64)

    def coverage(self) -> np.ndarray:
        """Compute the share of `low` that `high` covers, f64 [P], rounded to single precision."""
        return self.share("covered").astype(np.float32).astype(np.float64)

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Return the largest value of each candidate's pairs with higher-ranked ones, f64 [N], at least 0.

        values: f64 [P].
        """
        found = np.zeros(len(self.order))
        np.maximum.at(found, self.low, values)
        return found

    def in_rank_order(self, values: np.ndarray) -> torch.Tensor:
        """Return values of the candidates in `order`, f64 [N], as values of the candidates as they were given."""
        found = np.empty_like(values)
        found[self.order] = values
        return torch.from_numpy(found)


def overlapping(candidates: Candidates, proposals: Proposals, within: Within, shape: Shape) -> Pairs:
    """Find the candidates that compete and overlap.

    Boxes end on their last pixel, so a box of one column or row has no area, and its overlap is 0.
    Cost: N^2 / 2 boxes, or as many intersections of masks whose boxes intersect. Those of masks are computed once.
    """
    order, starts = groups(candidates, within)
    index = candidates.index.numpy()[order]
    if shape == "boxes":
        boxes = proposals.boxes_lr.numpy()[index].T.copy()
        low, high, both = meeting(boxes, starts)
        return Pairs(order, starts, low, high, both, box_areas(boxes))
    low, high, both = proposals.overlap.sharing(index, starts)
    return Pairs(order, starts, low, high, both.astype(np.float64), proposals.overlap.areas(index).astype(np.float64))


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Compute the areas of boxes, f32 [4, N]. Returns f32 [N]."""
    return (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])
