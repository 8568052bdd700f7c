"""The COCO protocol for boxes and masks, restricted to the classes of the experiment (METHOD 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from refexp.data.coco import Split
from refexp.data.protocols import OTHER, Protocol, as_other
from refexp.errors import RefexpError
from refexp.evaluation.matches import Matches
from refexp.evaluation.overlaps import Kind
from refexp.evaluation.protocol import ByImage, Evaluated, Evaluation, need_instances, need_masks, of_all
from refexp.types import Detections

Engine = Literal["refexp", "pycocotools"]


class CocoEvaluation(Evaluation):
    """Computes nAP (IoU .50:.95), nAP50, nAP75, nAP by size, AR, nAP by class, and the best F1 with its score.

    kinds: boxes, masks or both. Targets without masks can be evaluated only by boxes.
    engine: "refexp", image by image, or "pycocotools", the reference: the same numbers in much more time.
    protocol: the protocol that leads. "standard": COCO's boxes. "published": the boxes of the detections end on their
    last pixel, so they are one pixel less wide and high, and so are the ground-truth boxes of PASCAL VOC. For small
    objects the difference is several points of box nAP. Mask numbers are the same by both.
    both: also compute the box numbers by the other protocol.
    diagnostics: also write diagnostics.json, an analysis of what limits the result.
    confusion_threshold: minimum score of the detections in its confusion matrix. None takes the N detections of highest
    score, N = number of instances.
    """

    def __init__(
        self,
        kinds: Annotated[list[Kind], Field(min_length=1)] | None = None,
        engine: Engine = "refexp",
        protocol: Protocol = "standard",
        both: bool = False,
        diagnostics: bool = False,
        confusion_threshold: Annotated[float, Field(ge=0, le=1)] | None = None,
    ) -> None:
        self.kinds: list[Kind] = list(kinds or ("bbox", "segm"))
        self.engine: Engine = engine
        self.protocol, self.both = protocol, both
        self.diagnostics, self.confusion_threshold = diagnostics, confusion_threshold

    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before any expensive step."""
        if self.diagnostics and self.protocol == "published" and "bbox" in self.kinds and not self.both:
            raise RefexpError("evaluation.diagnostics=true needs both_protocols=true or protocol=standard.")
        need_instances(targets)
        if "segm" in self.kinds:
            need_masks(targets)

    def by_image(self, targets: Split, classes: Sequence[str]) -> ByImage | None:
        """Return refexp's own engine, if it is the chosen one."""
        if self.engine == "pycocotools":
            return None
        from refexp.evaluation.engine import CocoByImage, Measure  # imports numba, which takes half a second

        measures = [Measure(kind, self.protocol) for kind in self.kinds]
        if self.both and "bbox" in self.kinds:
            measures.append(Measure("bbox", OTHER[self.protocol]))
        return CocoByImage(targets, classes, measures)

    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """Compute the metrics of each kind, and its curves and matches by the leading protocol."""
        if by_image := self.by_image(targets, classes):
            return by_image.conclude([by_image.match(found) for found in of_all(targets, detections)])
        from refexp.evaluation.reference import evaluate_kind

        evaluated, matches = Evaluated({}, {}), dict[str, Matches]()
        for kind in self.kinds:
            of_kind, evaluated.curves[kind], matches[kind] = evaluate_kind(
                kind, targets, detections, classes, self.protocol
            )
            evaluated.metrics.update(of_kind)
        if self.both and "bbox" in self.kinds:
            other = OTHER[self.protocol]
            boxes, _, _ = evaluate_kind("bbox", targets, detections, classes, other)
            evaluated.metrics.update(as_other(boxes, other))
        return evaluated._replace(matches=matches)
