"""Graph diffusion: masks of a class pass on, along their overlaps, how much of them is explained by others."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from refexp.kernels.ranked import diffused
from refexp.postprocess.overlap import Count, Fraction, overlapping
from refexp.types import Candidates, Proposals

CLOSE = 1e-6
"""Largest change of a value at which the diffusion ends."""


class GraphDiffusion:
    """Graph diffusion: score_i *= max(0, 1 - p_i) ^ power, within each class.

    W_ij = |m_i AND m_j| / |m_i| for each mask j ranked above i, else 0. v_i = max_j W_ij. From p = 1 / n on,
    p <- alpha W p + (1 - alpha) v, `iterations` times or until no p changes by more than 1e-6.
    normalise: divide each row of W by its sum before the diffusion, as the paper writes. The released code does not.
    With alpha = 0 this is soft merging without semantics.
    Ranks are the order of the candidates, which the step before decides. Masks overlap at their original size; the
    released code compares them on the encoder's patch grid.
    Source: FSOD-VFM, arXiv 2602.03137.
    Cost: O(N_c^2) intersections of masks for the N_c candidates of a class.
    """

    def __init__(
        self,
        alpha: Fraction = 0.3,
        normalise: bool = False,
        power: Annotated[float, Field(ge=0)] = 0.5,
        iterations: Count = 30,
    ) -> None:
        self.alpha, self.normalise, self.power, self.iterations = alpha, normalise, power, iterations

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        pairs = overlapping(candidates, proposals, "class", "masks")
        weights = pairs.coverage()
        direct = pairs.largest(weights)
        if self.normalise:
            weights = weights / np.bincount(pairs.low, weights)[pairs.low]
        explained = diffused(
            pairs.starts, pairs.low, pairs.high, weights, direct, self.alpha, self.iterations, CLOSE
        )  # fmt: skip
        decay = (1 - pairs.in_rank_order(explained)).clamp(min=0).pow(self.power).float()
        return Candidates(candidates.index, candidates.labels, candidates.scores * decay)
