"""The small steps between matching and detections; a postprocess config is a named list of them.

Each step takes the candidates of one image in rank order, and its proposals, and returns candidates.
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

    Boxes are the low-resolution ones. At most `keep` candidates stay, and those without any similarity go.
    Costs O(N^2) box overlaps.
    """

    def __init__(self, iou_threshold: Fraction = 0.5, keep: Count = 800) -> None:
        self.iou_threshold = iou_threshold
        self.keep = keep

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        from torchvision.ops import batched_nms  # takes a second to import; mistakes are told before

        # Ranks instead of qualities as scores: equal qualities then keep their order on every device and version.
        order = proposals.quality[candidates.index].argsort(descending=True, stable=True)
        ranked = candidates.pick(order)
        falling = torch.arange(len(ranked), 0, -1, dtype=torch.float32)
        boxes = proposals.boxes_lr[ranked.index]
        kept = batched_nms(boxes, falling, ranked.labels, self.iou_threshold)[: self.keep]
        kept = ranked.pick(kept)
        return kept.pick(kept.scores > 0)


class SoftMerge:
    """Semantic soft merging: a mask decays by how much a higher-ranked one of its class covers it (METHOD 4.2).

    Costs O(N_c^2) run-length intersections for the N_c candidates of a class.
    """

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        decay = torch.ones(len(candidates))
        for label in candidates.labels.unique():
            rows = torch.nonzero(candidates.labels == label)[:, 0]
            overlap = coverage(proposals, candidates.index[rows]) * likeness(proposals, candidates.index[rows])
            # Similarity can exceed 1 by a rounding error; a negative number has no root.
            worst = overlap.tril(diagonal=-1).amax(dim=1).clamp(max=1)
            decay[rows] = (1 - worst).sqrt().float()
        return Candidates(candidates.index, candidates.labels, candidates.scores * decay)


def coverage(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """|m_i AND m_j| / |m_i| for the chosen proposals, f32 [N, N], exact from the run-length codes."""
    rles = [proposals.masks[i] for i in index.tolist()]
    return torch.from_numpy(np.asarray(coco_mask.iou(rles, rles, [1] * len(rles)))).float()


def likeness(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """max(0, cosine) of the chosen proposals' features, f64 [N, N].

    In double precision: the root of 1 - overlap near full overlap magnifies the rounding, which differs by processor.
    """
    features = F.normalize(proposals.features[index].double(), dim=1)
    return (features @ features.T).clamp(min=0)


class TopK:
    """The `k` highest scores of an image, best first; ties keep their rank (METHOD 4.3)."""

    def __init__(self, k: Count = 100) -> None:
        self.k = k

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        return candidates.pick(candidates.scores.argsort(descending=True, stable=True)[: self.k])
