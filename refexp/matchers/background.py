"""Matching with the references' own background as a rival of their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from refexp.matchers.base import SimilarityMatcher
from refexp.matchers.patches import PerClass, background, cosine_kmeans, require_background
from refexp.types import MemoryBank, Patches, Proposals


@dataclass(eq=False, kw_only=True)
class BackgroundMatcher(SimilarityMatcher):
    """Compares a proposal with the class prototype, s_fg, and with the background around its references, s_bg.

    s_bg is the highest cosine of the mask feature and one of
    the `parts` clusters (cosine k-means) of the background patches of the class's references. parts = 1 is their mean.
    A patch is background if no annotated instance of the class touches it. If the encoder crops the references
    (`encoder.reference_context`), the background is that inside the crop.
    mode: "margin" multiplies s_fg by sigmoid((s_fg - s_bg) / temperature). "reject" sets s_fg to 0 where s_bg > s_fg.
    temperature: of "margin" only.
    Source: the idea of GF-SAM and FROST, arXiv 2606.31136.
    Cost: one forward pass per reference, and one k-means per class, in each run.
    Raises RefexpError with the class whose references show no background.
    """

    needs_patches: ClassVar[bool] = True

    mode: Literal["margin", "reject"] = "margin"
    temperature: Annotated[float, Field(gt=0)] = 0.1
    parts: Annotated[int, Field(ge=1)] = 8

    def __post_init__(self) -> None:
        self.rivals = PerClass(self.fit)

    def fit(self, patches: Sequence[Patches]) -> torch.Tensor:
        """Compute the background clusters of a class, f32 [min(parts, n), C], L2-normalised."""
        tokens = background(patches)
        return cosine_kmeans(tokens, torch.ones(len(tokens)), self.parts)

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the similarities, f32 [M, K]."""
        require_background(bank)
        class_cosine = proposals.features @ bank.prototypes.T
        rivals = self.rivals(bank)
        margin = class_cosine - torch.stack([(proposals.features @ r.T).amax(dim=1) for r in rivals], dim=1)
        return class_cosine * ((margin / self.temperature).sigmoid() if self.mode == "margin" else margin >= 0)
