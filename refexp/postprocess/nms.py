"""Non-maximum suppression: of candidates that overlap, the higher-ranked one stays or keeps its score."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from refexp.postprocess.overlap import (
    Count,
    Fraction,
    Measure,
    Rank,
    Shape,
    Within,
    best_first,
    competing,
    overlaps,
)
from refexp.types import Candidates, Proposals


class NMS:
    """Drops each candidate that overlaps a higher-ranked one, which itself stays, by more than `threshold`.

    shape: what overlaps, see `overlap.Shape`. measure: how, see `overlap.Measure`. "covered" is hard merging: a mask
        goes if one higher-ranked mask covers more than `threshold` of it.
    within: "image" lets candidates of different classes compete, so that each object gets one class.
    rank: what ranks the candidates, see `overlap.Rank`. Ties keep their order. The result is in rank order.
    keep: maximum number of candidates in an image. Those of them with a score of 0 are then dropped.
    Cost: N^2 overlaps (`overlap.overlaps`) and N^2 x 8 bytes for the N candidates that compete.
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
        stay = torch.zeros(len(ranked), dtype=torch.bool)
        for rows in competing(ranked, self.within):
            overlap = overlaps(proposals, ranked.index[rows], self.shape, self.measure)
            stay[rows] = torch.from_numpy(survivors(overlap > self.threshold))
        kept = ranked.pick(torch.nonzero(stay)[: self.keep, 0])
        return kept.pick(kept.scores > 0)


class ClassNMS(NMS):
    """The NMS of the paper: IoU of boxes, within each class, ranked by quality.

    Source: METHOD 3.3.
    Cost: N_c^2 box overlaps for the N_c candidates of a class.
    """

    def __init__(self, iou_threshold: Fraction = 0.5, keep: Count = 800) -> None:
        super().__init__(threshold=iou_threshold, keep=keep)


def survivors(suppressed: np.ndarray) -> np.ndarray:
    """Decide greedily who stays, bool [N].

    suppressed: bool [N, N]. Entry (i, j) says whether j, which ranks higher, drops i if j itself stays.
    """
    stays = np.ones(len(suppressed), dtype=bool)
    by_higher = np.ascontiguousarray(suppressed.T)
    for row in range(len(stays)):
        if stays[row]:
            stays[row + 1 :] &= ~by_higher[row, row + 1 :]
    return stays


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
        scores = candidates.scores.double().numpy().copy()
        for group in competing(candidates, self.within):
            rows = group.numpy()
            overlap = overlaps(proposals, candidates.index[group], self.shape, self.measure)
            scores[rows] = self._decayed(scores[rows], self._factors(overlap))
        found = Candidates(candidates.index, candidates.labels, torch.from_numpy(scores).float())
        return best_first(found, proposals, "score")

    def _factors(self, overlap: np.ndarray) -> np.ndarray:
        if self.decay == "linear":
            return np.where(overlap > self.threshold, 1 - overlap, 1.0)
        return np.exp(-(overlap**2) / self.sigma)

    def _decayed(self, scores: np.ndarray, factors: np.ndarray) -> np.ndarray:
        """Return the scores f64 [N] after the decay. factors: f64 [N, N], of i by j."""
        waiting = np.ones(len(scores), dtype=bool)
        for _ in range(len(scores)):
            best = int(np.where(waiting, scores, -np.inf).argmax())
            waiting[best] = False
            scores = np.where(waiting, scores * factors[:, best], scores)
        return scores
