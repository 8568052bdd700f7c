"""From similarities to candidates: what the matchers of this package share.

The annotations are objects, not text, because dataclasses of other modules inherit them: no `from __future__` here.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from refexp.matchers.calibration import Calibration, Calibrator, check_shots
from refexp.types import Candidates, MemoryBank, Proposals


@dataclass(eq=False, kw_only=True)
class SimilarityMatcher(ABC):
    """Turns similarities to classes into candidates. A subclass only writes `similarity`.

    The score of a proposal and a class is max(0, similarity) * quality^gamma. Each proposal gets its best class.
    calibration: maps the similarities of each class to one common scale, from the references alone; see `calibration`.
    gamma: exponent of the proposal's quality. 0 ignores the quality, as the paper does. 1 is the product that NOCTIS
        (arXiv 2507.01463) uses.
    """

    needs_patches: ClassVar[bool] = False
    needs_tokens: ClassVar[bool] = False

    calibration: Calibration | None = None
    gamma: Annotated[float, Field(ge=0)] = 0

    @abstractmethod
    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the similarity of M proposals to K classes, f32 [M, K], at most 1. M may be 0."""

    def choose(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Choose which classes each proposal gets, from scores f32 [M, K] >= 0: the best one.

        Returns:
            Proposals and their classes, each i64 [N], in proposal order.
        """
        return torch.arange(len(scores)), scores.max(dim=1).indices

    def match(self, proposals: Proposals, bank: MemoryBank) -> Candidates:
        """Match M proposals. Returns the candidates in proposal order."""
        similarity = self.similarity(proposals, bank)
        if self.calibration:
            similarity = self._calibrator(bank)(similarity)
        scores = similarity.clamp(min=0)
        index, labels = self.choose(scores)
        quality = proposals.quality[index].clamp(0, 1) ** self.gamma
        return Candidates(index, labels, scores[index, labels] * quality)

    def check_references(self, shots: Mapping[str, int]) -> None:
        """Raise RefexpError if these numbers of different references, by class name, do not suffice."""
        if self.calibration:
            check_shots(self.calibration, shots)

    def _calibrator(self, bank: MemoryBank) -> Calibrator:
        """The calibrator of a bank. It is fitted once, because a run has one bank for all images."""
        known: tuple[MemoryBank, Calibrator] | None = getattr(self, "_fitted", None)
        if known is None or known[0] is not bank:
            assert self.calibration
            self._fitted = known = bank, Calibrator.fit(self.calibration, self.similarity, bank)
        return known[1]
