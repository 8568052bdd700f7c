"""COCO's numbers by pycocotools, the reference of refexp's own engine."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from refexp.data.coco import Split
from refexp.data.protocols import Protocol
from refexp.evaluation.matches import Matches, match
from refexp.evaluation.overlaps import Kind, annotated, detected
from refexp.evaluation.summary import per_class, summarise
from refexp.evaluation.threshold import best_f1
from refexp.types import Detections, ImageId


def evaluate_kind(
    kind: Kind,
    targets: Split,
    detections: Sequence[Detections],
    classes: Sequence[str],
    protocol: Protocol = "standard",
) -> tuple[dict[str, float | None], np.ndarray, Matches]:
    """Run COCOeval once.

    Returns the metrics, precision f64 [10 IoUs, 101 recalls, K], -1 where no instance counts, and the matches.

    Cost: O(images x classes x detections x instances) box or run-length overlaps.
    """
    return conclude(kind, run_pycocotools(kind, targets, detections, classes, protocol), classes)


def conclude(
    kind: Kind, evaluation: Any, classes: Sequence[str]
) -> tuple[dict[str, float | None], np.ndarray, Matches]:
    """Return the results of a COCOeval, as `evaluate_kind` does."""
    limits = evaluation.params.maxDets
    precision, recall = evaluation.eval["precision"][..., -1], evaluation.eval["recall"]
    truth, found = (side.dataset["annotations"] for side in (evaluation.cocoGt, evaluation.cocoDt))
    matches = match(truth, found, evaluation.ious, limits[-1])
    named = summarise(precision, recall, limits) | per_class(precision[..., 0], classes) | best_f1(matches, classes)
    return {f"{kind}/{name}": value for name, value in named.items()}, precision[..., 0], matches


def run_pycocotools(
    kind: Kind,
    targets: Split,
    detections: Sequence[Detections],
    classes: Sequence[str],
    protocol: Protocol = "standard",
) -> Any:
    """Run pycocotools' COCOeval without its prints, and return it."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # COCOeval needs integer image ids, and for it annotation id 0 means "no match". So all numbers start at 1.
    number = {image_id: position for position, image_id in enumerate(targets.images, start=1)}
    truth, found = COCO(), COCO()
    truth.dataset = {
        "images": [{**targets.images[id_], "id": n} for id_, n in number.items()],
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        "annotations": [
            truth_row(kind, a, targets, number, i, protocol) for i, a in enumerate(targets.annotations, start=1)
        ],
    }
    rows = [row for detection in detections for row in result_rows(kind, detection, number, protocol)]
    found.dataset = truth.dataset | {"annotations": [row | {"id": i} for i, row in enumerate(rows, start=1)]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def truth_row(
    kind: Kind,
    annotation: dict[str, Any],
    targets: Split,
    number: dict[ImageId, int],
    id_: int,
    protocol: Protocol = "standard",
) -> dict[str, Any]:
    """Convert an annotation to COCOeval's input. For boxes, the mask is left out."""
    box, area = annotated(kind, annotation, targets, protocol)
    return {
        "id": id_,
        "image_id": number[annotation["image_id"]],
        "category_id": targets.labels[annotation["category_id"]] + 1,
        "bbox": box,
        "area": area,
        "iscrowd": annotation.get("iscrowd", 0),
        "segmentation": targets.mask(annotation) if kind == "segm" else None,
    }


def result_rows(
    kind: Kind, detections: Detections, number: dict[ImageId, int], protocol: Protocol = "standard"
) -> list[dict[str, Any]]:
    """Convert the detections of an image to COCOeval's input."""
    shapes, size = detected(kind, detections.masks, protocol)
    shapes = shapes.tolist() if isinstance(shapes, np.ndarray) else shapes
    return [
        {
            "image_id": number[detections.image_id],
            "category_id": int(label) + 1,
            "bbox" if kind == "bbox" else "segmentation": shape,
            "area": float(area),
            "score": float(score),
            "iscrowd": 0,
        }
        for label, score, shape, area in zip(detections.labels, detections.scores, shapes, size, strict=True)
    ]
