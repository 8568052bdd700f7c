"""Soft merging: a mask that a higher-ranked mask of its class covers loses score."""

from __future__ import annotations

from refexp.postprocess.overlap import overlapping
from refexp.types import Candidates, Proposals


class SoftMerge:
    """Semantic soft merging: lowers the score of a mask that a higher-ranked mask of its class covers.

    semantics: weigh the coverage by the likeness of both masks' features. False takes the coverage alone, as the
        paper's ablation does.
    Ranks are the order of the candidates, which the step before decides.
    Source: METHOD 4.2.
    Cost: O(N_c^2) intersections of masks for the N_c candidates of a class, and a cosine for each pair that intersects.
    """

    def __init__(self, semantics: bool = True) -> None:
        self.semantics = semantics

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        pairs = overlapping(candidates, proposals, "class", "masks")
        overlap = pairs.coverage()
        if self.semantics:
            index = candidates.index.numpy()[pairs.order]
            overlap *= proposals.overlap.cosine(index[pairs.low], index[pairs.high]).clip(min=0)
        # A rounding error can make the similarity exceed 1, and a negative number has no root.
        worst = pairs.in_rank_order(pairs.largest(overlap)).clamp(max=1)
        decay = (1 - worst).sqrt().float()
        return Candidates(candidates.index, candidates.labels, candidates.scores * decay)
