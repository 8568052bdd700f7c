"""The order of candidates, and how many stay."""

from __future__ import annotations

import numpy as np

from refexp.postprocess.overlap import Count, Rank, Within, best_first, groups
from refexp.types import Candidates, Proposals


class Sort:
    """Puts the candidates in rank order, best first, for the steps that follow. Ties keep their order."""

    def __init__(self, by: Rank = "quality") -> None:
        self.by: Rank = by

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        return best_first(candidates, proposals, self.by)


class TopK:
    """Keeps the `k` highest scores of an image or of each class, best first. Ties keep their rank.

    Source: METHOD 4.3.
    """

    def __init__(self, k: Count = 100, within: Within = "image") -> None:
        self.k = k
        self.within: Within = within

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates:
        ranked = best_first(candidates, proposals, "score")
        order, starts = groups(ranked, self.within)
        place = np.arange(len(order)) - np.repeat(starts[:-1], np.diff(starts))
        return ranked.pick(np.sort(order[place < self.k]))
