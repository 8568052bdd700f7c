"""Matching by class prototype (METHOD 3.2)."""

from __future__ import annotations

import torch

from refexp.types import Candidates, MemoryBank, Proposals


class PrototypeMatcher:
    """Cosine of mask feature and class prototype, clamped at 0; each proposal gets its most similar class."""

    def match(self, proposals: Proposals, bank: MemoryBank) -> Candidates:
        """M proposals -> N = M candidates, in proposal order."""
        similarity = (proposals.features @ bank.prototypes.T).clamp(min=0)
        scores, labels = similarity.max(dim=1)
        return Candidates(torch.arange(len(proposals)), labels, scores)
