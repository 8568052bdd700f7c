"""Matching with the mean of the most similar references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from refexp.matchers.base import SimilarityMatcher
from refexp.matchers.instances import per_class
from refexp.types import MemoryBank, Proposals


@dataclass(eq=False, kw_only=True)
class InstanceMeanTopMatcher(SimilarityMatcher):
    """The similarity is the mean of the `k` highest cosines of the mask feature and references of the class.

    NOCTIS uses k = 5. A class with fewer references uses all of them. k = 1 is `instance_max`.
    Source: NOCTIS, arXiv 2507.01463.
    Cost: O(M * R * C) per image, for the R references of all classes.
    """

    k: Annotated[int, Field(ge=1)] = 5

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the mean cosines, f32 [M, K]."""
        return per_class(
            proposals, bank, lambda cosines: cosines.topk(min(self.k, cosines.shape[1]), dim=1).values.mean(dim=1)
        )
