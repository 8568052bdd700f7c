"""Matching with negative prototypes, which lower the score of what resembles them more than the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from refexp.matchers.base import SimilarityMatcher
from refexp.matchers.patches import PerClass, background, cosine_kmeans, require_background
from refexp.types import MemoryBank, Patches, Proposals


@dataclass(eq=False, kw_only=True)
class NegativeMatcher(SimilarityMatcher):
    """The similarity is s_pos * exp(-max(0, s_neg - s_pos) / temperature), as in the paper's published code.

    s_pos is the cosine to the class prototype. s_neg is the highest cosine to a negative prototype of the class.
    The published code takes false positives of the method on annotated images as negatives. Here they are segments of
    the references' own background, the `parts` clusters (cosine k-means) of each reference: what a region proposer
    could find there besides the class. So no proposer runs on the references.
    Unlike `background`, nothing changes where the class is more similar than every negative.
    Source: the published code of arXiv 2507.02798.
    Cost: one forward pass and one k-means per reference, in each run. Memory: `parts` vectors per reference.
    Raises RefexpError with the class whose references show no background; see `BackgroundMatcher`.
    """

    needs_patches: ClassVar[bool] = True

    temperature: Annotated[float, Field(gt=0)] = 0.8
    parts: Annotated[int, Field(ge=1)] = 4

    def __post_init__(self) -> None:
        self.negatives = PerClass(self.fit)

    def fit(self, patches: Sequence[Patches]) -> torch.Tensor:
        """Compute the negative prototypes of a class, f32 [n, C], L2-normalised."""
        each = [background([reference]) for reference in patches if reference.outside.any()]
        return torch.cat([cosine_kmeans(tokens, torch.ones(len(tokens)), self.parts) for tokens in each])

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the similarities, f32 [M, K]."""
        require_background(bank)
        positive = proposals.features @ bank.prototypes.T
        negative = torch.stack([(proposals.features @ n.T).amax(dim=1) for n in self.negatives(bank)], dim=1)
        return positive * torch.exp(-(negative - positive).clamp(min=0) / self.temperature)
