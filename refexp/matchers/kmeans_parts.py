"""Matching with several part prototypes per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from refexp.matchers.base import SimilarityMatcher
from refexp.matchers.patches import PerClass, cosine_kmeans, foreground
from refexp.types import MemoryBank, Patches, Proposals


@dataclass(eq=False, kw_only=True)
class KMeansPartsMatcher(SimilarityMatcher):
    """The similarity is the highest cosine of the mask feature and one of the `k` parts of the class.

    The parts are the clusters (cosine k-means) of the patch tokens under the masks of all references of the class.
    On pooled features: the published form takes the best part of each patch, then the mean over the mask's patches.
    Here the mask's pooled feature takes its best part. This needs no tokens of the target.
    Cost: one forward pass per reference, and one k-means per class, in each run.
    """

    needs_patches: ClassVar[bool] = True

    k: Annotated[int, Field(ge=1)] = 4

    def __post_init__(self) -> None:
        self.parts = PerClass(self.fit)

    def fit(self, patches: Sequence[Patches]) -> torch.Tensor:
        """Compute the parts of a class, f32 [min(k, n), C], L2-normalised."""
        return cosine_kmeans(*foreground(patches), self.k)

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the cosines to the best parts, f32 [M, K]."""
        best = [(proposals.features @ parts.T).amax(dim=1) for parts in self.parts(bank)]
        return torch.stack(best, dim=1)
