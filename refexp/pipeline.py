"""One image's way through the method: what is extracted from it, and what is detected in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from refexp.encoders.base import Encoder
from refexp.masks import low_res_boxes
from refexp.pooling import pool_masks
from refexp.proposers.base import Proposer
from refexp.types import Candidates, Detections, ImageId, MemoryBank, Proposals, Target


class Matcher(Protocol):
    """Proposals x memory bank -> candidates with class and score."""

    def match(self, proposals: Proposals, bank: MemoryBank) -> Candidates: ...


class Step(Protocol):
    """One step of the postprocessing: candidates in rank order -> candidates."""

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates: ...


def extract(target: Target, encoder: Encoder, proposer: Proposer, device: torch.device) -> Proposals:
    """The expensive half, which no reference changes: proposals and their pooled features (METHOD 2, 3.1)."""
    found = proposer.propose(target)
    tokens = encoder.encode(target.square[None].to(device))[0].float()
    features = pool_masks(found.masks_lr, tokens).cpu()
    return Proposals(found.quality, low_res_boxes(found.masks_lr), features, found.masks, target.size)


def detect(
    image_id: ImageId, proposals: Proposals, bank: MemoryBank, matcher: Matcher, steps: Iterable[Step]
) -> Detections:
    """The cheap half: match, then postprocess (METHOD 3.2 to 4)."""
    candidates = matcher.match(proposals, bank)
    for step in steps:
        candidates = step(candidates, proposals)
    masks = [proposals.masks[i] for i in candidates.index.tolist()]
    return Detections(image_id, candidates.labels, candidates.scores, masks)
