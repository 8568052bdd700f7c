"""Semantic intersection over union, computed from instances, for COCO-20i (METHOD 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from refexp.data.coco import Record, Split
from refexp.evaluation.protocol import Evaluated, Evaluation, need_instances, need_masks
from refexp.masks import Rle, areas, decode
from refexp.types import Detections

BACKGROUND, VOID = 0, -1


class SemanticEvaluation(Evaluation):
    """Computes the IoU of label maps, from pixel counts over the whole split.

    threshold: minimum score of the detections in the label map. Higher scores are painted over lower scores.
    Annotations are painted from the largest to the smallest, so that an object (a person) does not hide a smaller
    object on it (a tie). Crowd regions are void: their pixels do not count, except where an instance is painted.

    protocol: "classes" gives `semantic/IoU/<class>` of each class and their mean `semantic/mIoU`, without background.
    "foreground" ignores the labels. `semantic/FB-IoU` is the mean IoU of foreground and background.

    Every class is evaluated in every image of the split. The few-shot segmentation literature draws episodes: one class
    and an image that shows it. This is easier, so the two kinds of numbers are not comparable.
    """

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
        protocol: Literal["classes", "foreground"] = "classes",
    ) -> None:
        self.threshold = threshold
        self.protocol = protocol

    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before any expensive step."""
        need_instances(targets)
        need_masks(targets)

    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """Compute the metrics. A class without ground-truth pixels gets None and is not part of the mean."""
        pixels = self.count(targets, detections, len(classes))
        if self.protocol == "foreground":
            hit, missed, invented = pixels[1:, 1:].sum(), pixels[1:, 0].sum(), pixels[0, 1:].sum()
            merged = np.array([[pixels[0, 0], invented], [missed, hit]])
            return Evaluated({"semantic/FB-IoU": mean(intersection_over_union(merged))}, {})
        of_class = intersection_over_union(pixels)[1:]
        named = {f"semantic/IoU/{name}": value for name, value in zip(classes, of_class, strict=True)}
        return Evaluated({"semantic/mIoU": mean(of_class), **named}, {})

    def count(self, targets: Split, detections: Sequence[Detections], classes: int) -> np.ndarray:
        """Count pixels, i64 [1 + K, 1 + K], by true class (row) and predicted class (column). 0 is background.

        Keeps the label maps of only one image in memory: two i32 [H, W].
        """
        layers = {found.image_id: found_layers(found, self.threshold) for found in detections}
        pixels = np.zeros((1 + classes) ** 2, dtype=np.int64)
        for image_id, record in targets.images.items():
            size = record["height"], record["width"]
            truth = paint(size, true_layers(targets.by_image[image_id], targets))
            guess = paint(size, layers.get(image_id, ()))
            seen = truth != VOID
            # One bincount over pairs (true, predicted) fills the whole matrix.
            pixels += np.bincount(truth[seen] * (1 + classes) + guess[seen], minlength=len(pixels))
        return pixels.reshape(1 + classes, 1 + classes)


def paint(size: tuple[int, int], layers: Iterable[tuple[int, Rle]]) -> np.ndarray:
    """Paint the layers over each other, i32 [H, W]. The last layer is on top. BACKGROUND where there is no layer."""
    picture = np.full(size, BACKGROUND, dtype=np.int32)
    for value, mask in layers:
        picture[decode([mask])[0]] = value
    return picture


def true_layers(annotations: Sequence[Record], split: Split) -> list[tuple[int, Rle]]:
    """Return (label + 1, mask) of an image's annotations: first crowds as VOID, then instances by decreasing area."""
    layers = []
    for annotation in annotations:
        mask, crowd = split.mask(annotation), annotation.get("iscrowd", 0)
        value = VOID if crowd else 1 + split.labels[annotation["category_id"]]
        layers.append((not crowd, -int(areas([mask])[0]), value, mask))
    # Results must not depend on the file order, so equal areas are sorted by class.
    return [(value, mask) for *_, value, mask in sorted(layers, key=lambda layer: layer[:3])]


def found_layers(found: Detections, threshold: float) -> list[tuple[int, Rle]]:
    """Return (label + 1, mask) of the detections of at least this score, the lowest first."""
    order = torch.argsort(found.scores, descending=True, stable=True).flip(0).tolist()
    return [(1 + int(found.labels[i]), found.masks[i]) for i in order if float(found.scores[i]) >= threshold]


def intersection_over_union(pixels: np.ndarray) -> list[float | None]:
    """Compute the IoU of each class from a confusion matrix [K, K]. None for a class without true pixels."""
    hits, true = np.diag(pixels), pixels.sum(axis=1)
    union = true + pixels.sum(axis=0) - hits
    return [float(h / u) if t else None for h, u, t in zip(hits, union, true, strict=True)]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None if there are none."""
    valid = [value for value in values if value is not None]
    return float(np.mean(valid)) if valid else None
