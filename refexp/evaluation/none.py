"""No evaluation, for targets without annotations."""

from __future__ import annotations

from collections.abc import Sequence

from refexp.data.coco import Split
from refexp.evaluation.protocol import Evaluated, Evaluation
from refexp.types import Detections


class NoEvaluation(Evaluation):
    """Accepts any targets and returns no metrics."""

    def check(self, targets: Split) -> None:
        """Accept any targets."""

    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """Return no metrics."""
        return Evaluated({}, {})
