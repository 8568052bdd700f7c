"""Non-maximum suppression: of candidates that overlap, the higher-ranked one stays or keeps its score."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from refexp.kernels.boxes import MEASURES
from refexp.kernels.boxes import survivors as survivors_of_boxes
from refexp.kernels.ranked import decayed, survivors
from refexp.postprocess.overlap import (
    Count,
    Fraction,
    Measure,
    Rank,
    Shape,
    Within,
    best_first,
    box_areas,
    groups,
    overlapping,
)
from refexp.types import Candidates, Proposals


class NMS:
    """Drops each candidate that overlaps a higher-ranked one, which itself stays, by more than `threshold`.

    shape: what overlaps, see `overlap.Shape`. measure: how, see `overlap.Measure`. "covered" is hard merging: a mask
        goes if one higher-ranked mask covers more than `threshold` of it.
    within: "image" lets candidates of different classes compete, so that each object gets one class.
    rank: what ranks the candidates, see `overlap.Rank`. Ties keep their order. The result is in rank order.
    keep: maximum number of candidates in an image. Those of them with a score of 0 are then dropped.
    Cost: N^2 / 2 overlaps for the N candidates that compete.
    """

    def __init__(
        self,
        threshold: Fraction = 0.5,
        shape: Shape = "boxes",
        measure: Measure = "iou",
        within: Within = "class",
        rank: Rank = "quality",
        keep: Count = 800,
    ) -> None:
        self.threshold, self.shape, self.measure = threshold, shape, measure
        self.within, self.rank, self.keep = within, rank, keep

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        ranked = best_first(candidates, proposals, self.rank)
        stay = (self._boxes if self.shape == "boxes" else self._masks)(ranked, proposals)
        kept = np.sort(stay)[: self.keep]
        return ranked.pick(kept[ranked.scores.numpy()[kept] > 0])

    def _boxes(self, ranked: Candidates, proposals: Proposals) -> np.ndarray:
        """Return the rows that stay, i64. It does not compute what a dropped box overlaps."""
        order, starts = groups(ranked, self.within)
        boxes = proposals.boxes_lr.numpy()[ranked.index.numpy()[order]].T.copy()
        return order[survivors_of_boxes(boxes, box_areas(boxes), starts, self.threshold, MEASURES.index(self.measure))]

    def _masks(self, ranked: Candidates, proposals: Proposals) -> np.ndarray:
        pairs = overlapping(ranked, proposals, self.within, "masks")
        hit = pairs.share(self.measure) > self.threshold
        return pairs.order[survivors(len(ranked), pairs.low[hit], pairs.high[hit])]


class ClassNMS(NMS):
    """The NMS of the paper: IoU of boxes, within each class, ranked by quality.

    Source: METHOD 3.3.
    Cost: N_c^2 box overlaps for the N_c candidates of a class.
    """

    def __init__(self, iou_threshold: Fraction = 0.5, keep: Count = 800) -> None:
        super().__init__(threshold=iou_threshold, keep=keep)


class SoftNMS:
    """Soft-NMS: lowers the scores of candidates that overlap one of higher score.

    It takes the candidate of highest score and lowers the scores of the rest, until none is left. The result is sorted
    by the new scores. No candidate is dropped.
    decay: how an overlap o lowers a score. "linear" multiplies it by 1 - o if o exceeds `threshold`. "gaussian"
        multiplies it by exp(-o^2 / sigma).
    threshold: only for "linear". sigma: only for "gaussian".
    shape, measure, within: as in `NMS`.
    Source: Soft-NMS, arXiv 1704.04503, section 3.
    Cost: N_c^2 overlaps for the N_c candidates that compete.
    """

    def __init__(
        self,
        decay: Literal["linear", "gaussian"] = "gaussian",
        threshold: Fraction = 0.3,
        sigma: Annotated[float, Field(gt=0)] = 0.5,
        shape: Shape = "boxes",
        measure: Measure = "iou",
        within: Within = "class",
    ) -> None:
        self.decay, self.threshold, self.sigma = decay, threshold, sigma
        self.shape, self.measure, self.within = shape, measure, within

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        pairs = overlapping(candidates, proposals, self.within, self.shape)
        factors = [self._factors(pairs.share(self.measure, of)) for of in ("low", "high")]
        given = candidates.scores.double().numpy()[pairs.order]
        scores = pairs.in_rank_order(decayed(given, pairs.starts, pairs.low, pairs.high, *factors))
        return best_first(Candidates(candidates.index, candidates.labels, scores.float()), proposals, "score")

    def _factors(self, overlap: np.ndarray) -> np.ndarray:
        if self.decay == "linear":
            return np.where(overlap > self.threshold, 1 - overlap, 1.0)
        return np.exp(-(overlap**2) / self.sigma)
