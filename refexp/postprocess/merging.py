"""Soft merging: a mask that a higher-ranked mask of its class covers loses score."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from refexp.postprocess.overlap import competing, coverage
from refexp.types import Candidates, Proposals


class SoftMerge:
    """Semantic soft merging: lowers the score of a mask that a higher-ranked mask of its class covers.

    semantics: weigh the coverage by the likeness of both masks' features. False takes the coverage alone, as the
        paper's ablation does.
    Ranks are the order of the candidates, which the step before decides.
    Source: METHOD 4.2.
    Cost: O(N_c^2) run-length intersections for the N_c candidates of a class.
    """

    def __init__(self, semantics: bool = True) -> None:
        self.semantics = semantics

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        decay = torch.ones(len(candidates))
        for rows in competing(candidates, "class"):
            overlap = coverage(proposals, candidates.index[rows]).double()
            if self.semantics:
                overlap = overlap * likeness(proposals, candidates.index[rows])
            # A rounding error can make the similarity exceed 1, and a negative number has no root.
            worst = overlap.tril(diagonal=-1).amax(dim=1).clamp(max=1)
            decay[rows] = (1 - worst).sqrt().float()
        return Candidates(candidates.index, candidates.labels, candidates.scores * decay)


def likeness(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """Compute max(0, cosine) of the features of the proposals at `index`, f64 [N, N].

    It uses double precision: near full overlap, the root of 1 - overlap amplifies rounding errors, which differ between
    processors.
    """
    features = F.normalize(proposals.features[index].double(), dim=1)
    return (features @ features.T).clamp(min=0)
