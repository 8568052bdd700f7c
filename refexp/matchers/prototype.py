"""Matching with class prototypes (METHOD 3.2)."""

from __future__ import annotations

import torch

from refexp.types import Candidates, MemoryBank, Proposals


class PrototypeMatcher:
    """Gives each proposal its most similar class. The score is the cosine of mask feature and class prototype, >= 0."""

    def match(self, proposals: Proposals, bank: MemoryBank) -> Candidates:
        """Match M proposals. Returns N = M candidates, in proposal order."""
        similarity = (proposals.features @ bank.prototypes.T).clamp(min=0)
        scores, labels = similarity.max(dim=1)
        return Candidates(torch.arange(len(proposals)), labels, scores)
