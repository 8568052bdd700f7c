"""Matching patch by patch, counting only those patches that find back to where they started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from refexp.masks import grid_shares
from refexp.matchers.base import SimilarityMatcher
from refexp.types import MemoryBank, Patches, Proposals


@dataclass(eq=False, kw_only=True)
class CyclicMatcher(SimilarityMatcher):
    """The similarity is the highest, over the references, of the mean best cosine of the mask's patches.

    For each patch p of the mask: q is the most similar patch under the reference's mask, and p counts cos(p, q) if the
    patch of the mask most similar to q lies at most `radius` patches from p, else 0 (the cyclic threshold).
    The mean is over all patches of the mask. A patch belongs to a mask that covers at least half of it; a mask that
    covers half of none has those that it covers most.
    NOCTIS compares crops. Here both sides are patches of whole images (or of `encoder.reference_context`'s crop).
    Source: NOCTIS, arXiv 2507.01463.
    Cost: the encoder runs on each target once more, whose tokens the store keeps (2.8 MB an image for ViT-L), and once
        per reference in each run.
    Then O(G * G * Q * C) per image for Q patches of all references, and for each of M masks O(patches of it * Q).
    """

    needs_patches: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    radius: Annotated[float, Field(ge=0)] = 5

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the similarities, f32 [M, K]."""
        tokens = F.normalize(proposals.known_tokens, dim=1)
        grid = round(len(tokens) ** 0.5)
        rows = [members(shares).nonzero()[:, 0] for shares in grid_shares(proposals.masks, grid)]
        scores = torch.zeros(len(proposals), len(bank.known_patches))
        for label, patches in enumerate(bank.known_patches):
            scores[:, label] = self.to_class(tokens, rows, patches)
        return scores

    def to_class(self, tokens: torch.Tensor, masks: Sequence[torch.Tensor], patches: Sequence[Patches]) -> torch.Tensor:
        """Compare masks with a class. tokens: unit, f32 [G * G, C]. masks: rows of `tokens`. Returns f32 [M]."""
        grid = round(len(tokens) ** 0.5)
        places = torch.stack([torch.arange(len(tokens)) // grid, torch.arange(len(tokens)) % grid], dim=1).float()
        each = [tokens @ F.normalize(p.tokens[members(p.weights)], dim=1).T for p in patches]  # f32 [G * G, Q_i]
        best = [cosines.max(dim=1) for cosines in each]
        start = torch.tensor([0, *(cosines.shape[1] for cosines in each)]).cumsum(dim=0)[:-1]
        values = torch.stack([found.values for found in best], dim=1)  # f32 [G * G, S_k]
        nearest = torch.stack([found.indices for found in best], dim=1) + start  # among the patches of all references
        together, scores = torch.cat(each, dim=1), torch.zeros(len(masks))
        for i, rows in enumerate(masks):
            back = rows[together[rows].max(dim=0).indices[nearest[rows]]]  # i64 [n, S_k]; twice as fast as argmax
            near = (places[back] - places[rows][:, None]).norm(dim=2) <= self.radius
            scores[i] = (values[rows] * near).mean(dim=0).amax()
        return scores


def members(shares: torch.Tensor) -> torch.Tensor:
    """Which patches belong to a mask, bool [G * G], from the share of each that it covers, f32 [G * G]. Never none."""
    return shares >= shares.max().clamp(max=0.5)
