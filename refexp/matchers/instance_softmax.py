"""Matching with a softmax-weighted mean over the references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from refexp.matchers.base import SimilarityMatcher
from refexp.matchers.instances import per_class
from refexp.types import MemoryBank, Proposals


@dataclass(eq=False, kw_only=True)
class InstanceSoftmaxMatcher(SimilarityMatcher):
    """The similarity is the mean of the cosines to the class's references, weighted by softmax(cosine / temperature).

    A low temperature approaches the maximum. A high one approaches the mean.
    Source: the ablation of instance matching in arXiv 2507.02798, where it was worse than the mean.
    Cost: O(M * R * C) per image, for the R references of all classes.
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the weighted means, f32 [M, K]."""
        return per_class(
            proposals, bank, lambda cosines: (cosines * (cosines / self.temperature).softmax(dim=1)).sum(dim=1)
        )
