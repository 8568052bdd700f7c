"""The LVIS protocol: average precision where each image is annotated for some classes only (arXiv 1908.03195)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from refexp.data.coco import Record, Split
from refexp.data.lvis import FREQUENCIES, LvisSplit
from refexp.data.protocols import Protocol
from refexp.errors import RefexpError
from refexp.evaluation.coco_protocol import (
    CocoEvaluation,
    Kind,
    engine_classes,
    mean_precision,
    per_class,
    result_rows,
    truth_row,
)
from refexp.evaluation.matches import Matches, match
from refexp.evaluation.protocol import Evaluated
from refexp.evaluation.threshold import best_f1
from refexp.types import Detections, ImageId

CLASSES_AT_ONCE = 64
"""Classes evaluated together. It limits memory: the engine keeps about 200 bytes per pair of image and class."""


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
        super().__init__(kinds, "faster")
        self.max_detections = max_detections

    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before any expensive step."""
        if not isinstance(targets, LvisSplit):
            raise RefexpError(f"evaluation=lvis needs LVIS annotations (dataset=lvis); {targets.source} has none.")
        super().check(targets)

    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """Compute the metrics, curves and matches of each kind."""
        assert isinstance(targets, LvisSplit)  # `check` guarantees this
        evaluated, matches = Evaluated({}, {}), dict[str, Matches]()
        for kind in self.kinds:
            precision, recall, matches[kind] = accumulate(kind, targets, detections, self.max_detections)
            named = summarise(precision, recall, self.max_detections)
            curves = precision[:, :, :, 0, -1]
            for group in FREQUENCIES:
                labels = [label for label, frequency in targets.frequencies().items() if frequency == group]
                named[f"nAP_{group}"] = mean_precision(curves[:, :, labels])
            named |= per_class(curves, classes) | best_f1(matches[kind], classes)
            evaluated.metrics.update({f"{kind}/{name}": value for name, value in named.items()})
            evaluated.curves[kind] = curves
        return evaluated._replace(matches=matches)


def accumulate(
    kind: Kind, targets: LvisSplit, detections: Sequence[Detections], max_detections: int
) -> tuple[np.ndarray, np.ndarray, Matches]:
    """Compute precision f64 [10 IoUs, 101 recalls, K, 4, 4], recall f64 [10, K, 4, 4], and the matches.

    -1: no instance counts.
    The last two axes are areas (all, small, medium, large) and limits of detections (1, 10, 100, `max_detections`).
    """
    images = federated_images(targets)
    number: dict[ImageId, int] = {image_id: image["id"] for image_id, image in images.items()}
    truth = [truth_row(kind, a, targets, number, id_) for id_, a in enumerate(targets.annotations, start=1)]
    counted = (in_known_classes(top_scores(found, max_detections), images[found.image_id]) for found in detections)
    rows = [row for found in counted for row in result_rows(kind, found, number)]
    results = [row | {"id": id_} for id_, row in enumerate(rows, start=1)]

    frequencies = targets.frequencies()
    unsure = {(image["id"], label) for image in images.values() for label in image["not_exhaustive_category_ids"]}
    precision, recall, matches = [], [], []
    for first in range(0, len(frequencies), CLASSES_AT_ONCE):
        categories = [
            {"id": label + 1, "frequency": frequencies[label][0]}
            for label in range(first, min(first + CLASSES_AT_ONCE, len(frequencies)))
        ]
        limits = [1, 10, 100, max_detections]
        ids = {category["id"] for category in categories}
        here, found = ([row for row in side if row["category_id"] in ids] for side in (truth, results))
        evaluation = run_engine(kind, list(images.values()), categories, (here, found), limits)
        precision.append(evaluation.eval["precision"])
        recall.append(evaluation.eval["recall"])
        matches.append(match(here, found, evaluation.ious, max_detections, unsure))
    return np.concatenate(precision, axis=2), np.concatenate(recall, axis=1), Matches.joined(matches)


def federated_images(targets: LvisSplit) -> dict[ImageId, Record]:
    """Return the engine's image records by image id. Images are numbered from 1. Category ids are label + 1.

    Fields: `neg_category_ids`, the classes known to be absent; `not_exhaustive_category_ids`, the classes with
    instances that are not annotated; `known`, the classes known to be absent or present. Only known classes can be
    evaluated in an image.
    """
    category = {id_: label + 1 for id_, label in targets.labels.items()}
    images = {}
    for number, (image_id, record) in enumerate(targets.images.items(), start=1):
        fields = ("neg_category_ids", "not_exhaustive_category_ids")
        lists = {field: [category[id_] for id_ in record[field] if id_ in category] for field in fields}
        size = {side: record[side] for side in ("height", "width")}
        images[image_id] = {"id": number, **size, **lists, "known": set(lists["neg_category_ids"])}
    for annotation in targets.annotations:
        images[annotation["image_id"]]["known"].add(category[annotation["category_id"]])
    return images


def top_scores(found: Detections, count: int) -> Detections:
    """Return the `count` detections of highest score."""
    return found.pick(torch.argsort(found.scores, descending=True, stable=True)[:count].tolist())


def in_known_classes(found: Detections, image: Record) -> Detections:
    """Return the detections of the image's known classes.

    The engine would drop the others too, but on LVIS they are millions.
    """
    return found.pick([row for row, label in enumerate(found.labels.tolist()) if label + 1 in image["known"]])


def run_engine(
    kind: Kind,
    images: Sequence[Record],
    categories: Sequence[Record],
    rows: tuple[list[Record], list[Record]],
    limits: list[int],
) -> Any:
    """Run faster-coco-eval for these categories and return its COCOeval. Its numbers equal those of the `lvis` package.

    rows: annotations and results of these categories.
    """
    COCO, COCOeval = engine_classes("faster")
    sides = []
    for side_rows in rows:
        side = COCO()
        side.dataset = {"images": list(images), "categories": list(categories), "annotations": side_rows}
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval(*sides, kind, lvis_style=True)
    evaluation.params.maxDets = limits
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def summarise(precision: np.ndarray, recall: np.ndarray, max_detections: int) -> dict[str, float | None]:
    """Compute `CocoEvaluation`'s twelve metrics and AR at `max_detections` from the arrays of `accumulate`."""
    overall: Any = precision[:, :, :, 0, -1]
    named = {"nAP": mean_precision(overall), "nAP50": mean_precision(overall[0]), "nAP75": mean_precision(overall[5])}
    for area, name in enumerate(("small", "medium", "large"), start=1):
        named[f"nAP_{name}"] = mean_precision(precision[:, :, :, area, -1])
        named[f"AR_{name}"] = mean_precision(recall[:, :, area, -1])
    for position, limit in enumerate((1, 10, 100, max_detections)):
        named[f"AR{limit}"] = mean_precision(recall[:, :, 0, position])
    return named
