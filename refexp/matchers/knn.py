"""Matching by a vote of the nearest references."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field

from refexp.matchers.base import SimilarityMatcher
from refexp.types import MemoryBank, Proposals


@dataclass(eq=False, kw_only=True)
class KNNMatcher(SimilarityMatcher):
    """The `k` references with the highest cosine, of all classes together, vote for their class.

    A vote counts its cosine times its softmax weight exp(cosine / temperature) / sum over the k. So the similarity is
    the weighted mean of the cosines if all k agree, and each vote for another class lowers it.
    Cost: O(M * R * C) per image, for the R references of all classes.
    """

    k: Annotated[int, Field(ge=1)] = 5
    temperature: Annotated[float, Field(gt=0)] = 0.1

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the sums of the votes, f32 [M, K]."""
        labels = torch.cat([torch.full((len(rows),), label) for label, rows in enumerate(bank.instances)])
        cosines = proposals.features @ F.normalize(torch.cat(bank.instances), dim=1).T
        nearest, rows = cosines.topk(min(self.k, len(labels)), dim=1)
        votes = nearest.clamp(min=0) * (nearest / self.temperature).softmax(dim=1)
        return votes.new_zeros(len(votes), len(bank.instances)).scatter_add_(1, labels[rows], votes)
