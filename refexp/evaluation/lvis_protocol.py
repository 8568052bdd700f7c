"""The LVIS protocol: average precision where each image is annotated for some classes only (arXiv 1908.03195)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from refexp.data.coco import Split
from refexp.data.lvis import LvisSplit
from refexp.data.protocols import Protocol
from refexp.errors import RefexpError
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.overlaps import Kind
from refexp.evaluation.protocol import ByImage


class LvisEvaluation(CocoEvaluation):
    """Computes the metrics of `CocoEvaluation` by the LVIS rules, and nAP_rare, nAP_common, nAP_frequent and AR300.

    A detection counts only if the image has annotations of its class or lists the class in `neg_category_ids`.
    An unmatched detection of a class in `not_exhaustive_category_ids` is ignored.
    kinds: boxes, masks or both. max_detections: number of detections per image that count, over all classes.
    protocol: only "standard", because no published figure is on record.
    AR1, AR10 and AR100 limit the detections per image and class.
    """

    def __init__(
        self,
        kinds: Annotated[list[Kind], Field(min_length=1)] | None = None,
        max_detections: Annotated[int, Field(ge=100)] = 300,
        protocol: Protocol = "standard",
    ) -> None:
        if protocol == "published":
            raise RefexpError("protocol=published: LVIS has no published protocol on record; set protocol=standard.")
        super().__init__(kinds)
        self.max_detections = max_detections

    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before any expensive step."""
        if not isinstance(targets, LvisSplit):
            raise RefexpError(f"evaluation=lvis needs LVIS annotations (dataset=lvis); {targets.source} has none.")
        super().check(targets)

    def by_image(self, targets: Split, classes: Sequence[str]) -> ByImage:
        """Return refexp's own engine with the LVIS rules."""
        from refexp.evaluation.lvis_engine import LvisByImage  # imports numba, which takes half a second

        assert isinstance(targets, LvisSplit)  # `check` guarantees this
        return LvisByImage(targets, classes, self.kinds, self.max_detections)
