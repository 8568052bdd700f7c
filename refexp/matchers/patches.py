"""What matchers make of the references' patches: unit tokens, clusters, and one model per class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F

from refexp.data.sampling import farthest
from refexp.errors import RefexpError
from refexp.types import MemoryBank, Patches

Model = TypeVar("Model")


class PerClass(Generic[Model]):
    """Calls `fit` on the patches of each class, and keeps the results for the next bank.

    A class is fitted again only if its list of patches is another object. So a run fits each class once, and leaving
    out a reference fits only the class of this reference again.
    """

    def __init__(self, fit: Callable[[Sequence[Patches]], Model]) -> None:
        self.fit = fit
        self.kept: list[tuple[list[Patches], Model]] = []

    def __call__(self, bank: MemoryBank) -> list[Model]:
        known = {id(patches): model for patches, model in self.kept}
        self.kept = [
            (patches, known[id(patches)] if id(patches) in known else self.fit(patches))
            for patches in bank.known_patches
        ]
        return [model for _, model in self.kept]


def foreground(patches: Sequence[Patches]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the unit tokens f32 [n, C] under the masks of these references, and their weights f32 [n] > 0."""
    tokens = [F.normalize(p.tokens[p.weights > 0], dim=1) for p in patches]
    return torch.cat(tokens), torch.cat([p.weights[p.weights > 0] for p in patches])


def background(patches: Sequence[Patches]) -> torch.Tensor:
    """Return the unit tokens f32 [n, C] of the background of these references. n may be 0."""
    return torch.cat([F.normalize(p.tokens[p.outside], dim=1) for p in patches])


def require_background(bank: MemoryBank) -> None:
    """Raise RefexpError with the first class whose references have no background patch."""
    for label, patches in enumerate(bank.known_patches):
        if not any(bool(p.outside.any()) for p in patches):
            raise RefexpError(
                f"the references of {bank.name(label)} show no background: its instances cover every patch that the "
                "encoder sees. Set encoder.reference_context to a larger value, or to null (the whole image)."
            )


def cosine_kmeans(tokens: torch.Tensor, weights: torch.Tensor, k: int, rounds: int = 20) -> torch.Tensor:
    """Cluster unit tokens f32 [n, C] with weights f32 [n] > 0 by their cosine. Returns unit centers f32 [min(k, n), C].

    The first center is the token nearest to the mean. Each further one is the token farthest from all before. So the
    result is deterministic, and does not depend on the order of the tokens. Cost: O(rounds * n * k * C).
    """
    mean = weights @ tokens
    centers = tokens[farthest(tokens, k, int((tokens @ mean).argmax()))]
    before = None
    for _ in range(rounds):
        nearest = (tokens @ centers.T).argmax(dim=1)
        if before is not None and torch.equal(nearest, before):
            break
        member = F.one_hot(nearest, len(centers)).float() * weights[:, None]
        moved = F.normalize(member.T @ tokens, dim=1)
        filled = member.any(dim=0)[:, None]  # a cluster that lost all its tokens stays where it is
        centers, before = torch.where(filled, moved, centers), nearest
    return centers
