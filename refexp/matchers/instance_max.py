"""Matching with the most similar single reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from refexp.matchers.base import SimilarityMatcher
from refexp.matchers.instances import per_class
from refexp.types import MemoryBank, Proposals


@dataclass(eq=False, kw_only=True)
class InstanceMaxMatcher(SimilarityMatcher):
    """The similarity is the highest cosine of the mask feature and a reference of the class.

    One odd reference is enough for a high score, so this suits classes with several appearances.
    Cost: O(M * R * C) per image, for the R references of all classes.
    """

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the highest cosines, f32 [M, K]."""
        return per_class(proposals, bank, lambda cosines: cosines.amax(dim=1))
