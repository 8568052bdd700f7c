"""The steps from matching to detections. A postprocess config is a list of named steps.

Each step gets the candidates of one image in rank order and the proposals of the image. It returns candidates.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask
from pydantic import Field

from refexp.types import Candidates, Proposals

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class ClassNMS:
    """Non-maximum suppression within each class, ranked by proposal quality (METHOD 3.3).

    It uses the low-resolution boxes. It keeps at most `keep` candidates and drops those with a score of 0.
    Cost: O(N^2) box overlaps.
    """

    def __init__(self, iou_threshold: Fraction = 0.5, keep: Count = 800) -> None:
        self.iou_threshold = iou_threshold
        self.keep = keep

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        from torchvision.ops import batched_nms  # the import takes a second, so config errors come first

        # Ranks replace the qualities as scores, so that ties have the same order on every device and version.
        order = proposals.quality[candidates.index].argsort(descending=True, stable=True)
        ranked = candidates.pick(order)
        ranks = torch.arange(len(ranked), 0, -1, dtype=torch.float32)
        boxes = proposals.boxes_lr[ranked.index]
        kept = batched_nms(boxes, ranks, ranked.labels, self.iou_threshold)[: self.keep]
        kept = ranked.pick(kept)
        return kept.pick(kept.scores > 0)


class SoftMerge:
    """Semantic soft merging: lowers the score of a mask that a higher-ranked mask of its class covers (METHOD 4.2).

    Cost: O(N_c^2) run-length intersections for the N_c candidates of a class.
    """

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        decay = torch.ones(len(candidates))
        for label in candidates.labels.unique():
            rows = torch.nonzero(candidates.labels == label)[:, 0]
            overlap = coverage(proposals, candidates.index[rows]) * likeness(proposals, candidates.index[rows])
            # A rounding error can make the similarity exceed 1, and a negative number has no root.
            worst = overlap.tril(diagonal=-1).amax(dim=1).clamp(max=1)
            decay[rows] = (1 - worst).sqrt().float()
        return Candidates(candidates.index, candidates.labels, candidates.scores * decay)


def coverage(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """Compute |m_i AND m_j| / |m_i| of the proposals at `index`, f32 [N, N], exactly, from the run-length codes."""
    rles = [proposals.masks[i] for i in index.tolist()]
    return torch.from_numpy(np.asarray(coco_mask.iou(rles, rles, [1] * len(rles)))).float()


def likeness(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """Compute max(0, cosine) of the features of the proposals at `index`, f64 [N, N].

    It uses double precision: near full overlap, the root of 1 - overlap amplifies rounding errors, which differ between
    processors.
    """
    features = F.normalize(proposals.features[index].double(), dim=1)
    return (features @ features.T).clamp(min=0)


class TopK:
    """Keeps the `k` highest scores of an image, best first. Ties keep their rank (METHOD 4.3)."""

    def __init__(self, k: Count = 100) -> None:
        self.k = k

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        return candidates.pick(candidates.scores.argsort(descending=True, stable=True)[: self.k])
