"""The COCO protocol for boxes and masks, restricted to the classes of the experiment (METHOD 5)."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from refexp.data.coco import Split
from refexp.data.protocols import OTHER, SHORT_TRUTH, Protocol, as_other, one_short
from refexp.errors import RefexpError
from refexp.evaluation.matches import Matches, match
from refexp.evaluation.protocol import Evaluated, Evaluation, need_instances, need_masks
from refexp.evaluation.threshold import best_f1
from refexp.masks import areas, boxes_xywh
from refexp.types import Detections, ImageId

Kind = Literal["bbox", "segm"]
Engine = Literal["pycocotools", "faster"]
SUMMARY = (
    "nAP", "nAP50", "nAP75", "nAP_small", "nAP_medium", "nAP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""Names of COCOeval's twelve summary metrics, in its order."""
MOST = 100
"""Number of detections per class and image that count."""


class CocoEvaluation(Evaluation):
    """Computes nAP (IoU .50:.95), nAP50, nAP75, nAP by size, AR, nAP by class, and the best F1 with its score.

    kinds: boxes, masks or both. Targets without masks can be evaluated only by boxes.
    engine: "pycocotools" (the reference) or "faster" (faster-coco-eval, equal to 1e-9).
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
        engine: Engine = "pycocotools",
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
        engine_classes(self.engine)
        if self.diagnostics and self.protocol == "published" and "bbox" in self.kinds and not self.both:
            raise RefexpError("evaluation.diagnostics=true needs both_protocols=true or protocol=standard.")
        need_instances(targets)
        if "segm" in self.kinds:
            need_masks(targets)

    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """Compute the metrics of each kind, and its curves and matches by the leading protocol."""
        evaluated, matches = Evaluated({}, {}), dict[str, Matches]()
        for kind in self.kinds:
            of_kind, evaluated.curves[kind], matches[kind] = evaluate_kind(
                kind, targets, detections, classes, self.engine, self.protocol
            )
            evaluated.metrics.update(of_kind)
        if self.both and "bbox" in self.kinds:
            other = OTHER[self.protocol]
            boxes, _, _ = evaluate_kind("bbox", targets, detections, classes, self.engine, other)
            evaluated.metrics.update(as_other(boxes, other))
        return evaluated._replace(matches=matches)


def engine_classes(engine: Engine) -> tuple[Any, Any]:
    """Return COCO and COCOeval of an engine. Raises RefexpError with the pip command if its package is missing."""
    if engine == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return COCO, COCOeval
    try:
        import faster_coco_eval
    except ImportError:
        raise RefexpError("evaluation=fast and evaluation=lvis need a package: pip install faster-coco-eval") from None
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it logs every step
    return faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster


def evaluate_kind(
    kind: Kind,
    targets: Split,
    detections: Sequence[Detections],
    classes: Sequence[str],
    engine: Engine,
    protocol: Protocol = "standard",
) -> tuple[dict[str, float | None], np.ndarray, Matches]:
    """Run COCOeval once.

    Returns the metrics, precision f64 [10 IoUs, 101 recalls, K], -1 where no instance counts, and the matches.

    Cost: O(images x classes x detections x instances) box or run-length overlaps.
    """
    COCO, COCOeval = engine_classes(engine)
    # COCOeval needs integer image ids, and for it annotation id 0 means "no match". So all numbers start at 1.
    number = {image_id: position for position, image_id in enumerate(targets.images, start=1)}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{**targets.images[id_], "id": n} for id_, n in number.items()],
            "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
            "annotations": [
                truth_row(kind, a, targets, number, i, protocol) for i, a in enumerate(targets.annotations, start=1)
            ],
        }
        truth.createIndex()
        found = COCO()
        results = [row for detection in detections for row in result_rows(kind, detection, number, protocol)]
        found.dataset = truth.dataset | {"annotations": [row | {"id": i} for i, row in enumerate(results, start=1)]}
        found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    metrics = {f"{kind}/{name}": _fraction(value) for name, value in zip(SUMMARY, evaluation.stats, strict=True)}
    # precision: [IoU thresholds, recall thresholds, classes, areas, max detections]. Take all areas, 100 detections.
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    matches = match(truth.dataset["annotations"], results, evaluation.ious, MOST)
    more = per_class(precision, classes) | best_f1(matches, classes)
    return metrics | {f"{kind}/{name}": value for name, value in more.items()}, precision, matches


def per_class(precision: np.ndarray, classes: Sequence[str]) -> dict[str, float | None]:
    """Compute `nAP/<class>`, `nAP50/<class>` and `nAP75/<class>` from precision f64 [10 IoUs, 101 recalls, K]."""
    of_ious = {"nAP": slice(None), "nAP50": slice(0, 1), "nAP75": slice(5, 6)}
    return {
        f"{metric}/{name}": mean_precision(precision[ious, :, label])
        for label, name in enumerate(classes)
        for metric, ious in of_ious.items()
    }


def truth_row(
    kind: Kind,
    annotation: dict[str, Any],
    targets: Split,
    number: dict[ImageId, int],
    id_: int,
    protocol: Protocol = "standard",
) -> dict[str, Any]:
    """Convert an annotation to COCOeval's input. For boxes, the mask is left out."""
    segmentation = targets.mask(annotation) if kind == "segm" else None
    box, area = annotation["bbox"], annotation.get("area")
    if kind == "bbox" and protocol == "published" and annotation.get(SHORT_TRUTH):
        box, area = one_short(box), None
    if area is None:
        area = float(areas([segmentation])[0]) if segmentation else box[2] * box[3]
    return {
        "id": id_,
        "image_id": number[annotation["image_id"]],
        "category_id": targets.labels[annotation["category_id"]] + 1,
        "bbox": box,
        "area": area,
        "iscrowd": annotation.get("iscrowd", 0),
        "segmentation": segmentation,
    }


def result_rows(
    kind: Kind, detections: Detections, number: dict[ImageId, int], protocol: Protocol = "standard"
) -> list[dict[str, Any]]:
    """Convert the detections of an image to COCOeval's input."""
    # The area decides the size range in which an unmatched detection counts: box area for boxes, mask area for masks.
    boxes = boxes_xywh(detections.masks)
    if protocol == "published":
        boxes[:, 2:] -= 1
    size = areas(detections.masks) if kind == "segm" else boxes[:, 2] * boxes[:, 3]
    return [
        {
            "image_id": number[detections.image_id],
            "category_id": int(label) + 1,
            "bbox": box.tolist(),
            "segmentation": mask,
            "area": float(area),
            "score": float(score),
            "iscrowd": 0,
        }
        for label, score, box, mask, area in zip(
            detections.labels, detections.scores, boxes, detections.masks, size, strict=True
        )
    ]


def _fraction(value: float) -> float | None:
    """Return None for COCOeval's -1, which means that no instance counts."""
    return None if value < 0 else float(value)


def mean_precision(precision: np.ndarray) -> float | None:
    """Return the mean over the valid entries, or None if there are none."""
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else None
