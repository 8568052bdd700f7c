"""Matching with class prototypes (METHOD 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from refexp.matchers.base import SimilarityMatcher
from refexp.types import MemoryBank, Proposals


@dataclass(eq=False, kw_only=True)
class PrototypeMatcher(SimilarityMatcher):
    """Gives each proposal its most similar class. The similarity is the cosine of mask feature and class prototype.

    Source: METHOD 3.2.
    Cost: O(M * K * C) per image.
    """

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the cosines, f32 [M, K]."""
        return proposals.features @ bank.prototypes.T
