"""No evaluation, for targets without annotations."""

from __future__ import annotations

from collections.abc import Sequence

from refexp.data.coco import Split
from refexp.evaluation.protocol import Evaluated, Evaluation
from refexp.types import Detections


class NoEvaluation(Evaluation):
    """Takes any targets, and has nothing to say of them."""

    def check(self, targets: Split) -> None:
        """Any targets will do."""

    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """No metrics."""
        return Evaluated({}, {})
