"""Matching with class prototypes, with several classes for a proposal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from refexp.matchers.prototype import PrototypeMatcher


@dataclass(eq=False, kw_only=True)
class MultiClassMatcher(PrototypeMatcher):
    """Gives each proposal every class whose score exceeds `share` times its best score.

    So it returns up to M x K candidates. A proposal with no positive score has none. The published code uses
    share = 0.6.
    Source: the published code of arXiv 2507.02798.
    Cost: O(M * K * C) per image, and as many more candidates to merge.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.6

    def choose(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        index, labels = torch.nonzero(scores > self.share * scores.amax(dim=1, keepdim=True), as_tuple=True)
        return index, labels
