"""Semantic intersection over union, computed from instances, for COCO-20i (METHOD 5)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from refexp.data.coco import Record, Split
from refexp.data.protocols import OTHER, Protocol, as_other
from refexp.errors import RefexpError
from refexp.evaluation.protocol import Evaluated, Evaluation, need_instances, need_masks
from refexp.masks import Rle, areas, decode
from refexp.types import Detections

BACKGROUND, VOID = 0, -1
Layer = tuple[int, Rle]
"""A value of the label map and where it is painted."""


class SemanticEvaluation(Evaluation):
    """Computes the IoU of label maps, from pixel counts over the whole split.

    threshold: minimum score of the detections in the label map.

    average: "classes" gives `semantic/IoU/<class>` of each class and their mean `semantic/mIoU`. "foreground" ignores
    the labels. `semantic/FB-IoU` is the mean IoU of foreground and background.

    protocol: the protocol that leads. The two give different quantities. "standard" paints higher scores over lower
    ones, and annotations from the largest to the smallest, so that an object (a person) does not hide a smaller object
    on it (a tie). Crowd regions are void: their pixels do not count, except where an instance is painted. The mean is
    over the classes, without background. "published" is the computation of the paper's code: `PublishedLabels`. It
    exists for the average over classes only.
    both: also compute the numbers of the other protocol, if it has some.

    Every class is evaluated in every image of the split. The few-shot segmentation literature draws episodes: one class
    and an image that shows it. This is easier, so the two kinds of numbers are not comparable.
    """

    def __init__(
        self,
        threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
        average: Literal["classes", "foreground"] = "classes",
        protocol: Protocol = "standard",
        both: bool = False,
    ) -> None:
        if average == "foreground" and protocol == "published":
            raise RefexpError("evaluation.average=foreground exists by the standard protocol only: protocol=standard.")
        self.threshold, self.average = threshold, average
        self.protocol, self.both = protocol, both

    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before any expensive step."""
        need_instances(targets)
        need_masks(targets)

    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """Compute the metrics. A class without ground-truth pixels gets None and is not part of the mean."""
        if self.average == "foreground":
            return Evaluated(self.foreground(self.count(targets, detections, StandardLabels(targets))), {})
        metrics = self.by_classes(self.protocol, targets, detections, classes)
        if self.both:
            other = OTHER[self.protocol]
            metrics |= as_other(self.by_classes(other, targets, detections, classes), other)
        return Evaluated(metrics, {})

    def by_classes(
        self, protocol: Protocol, targets: Split, detections: Sequence[Detections], classes: Sequence[str]
    ) -> dict[str, float | None]:
        """Compute the IoU of each class, and the mean, by one protocol."""
        labels = (StandardLabels if protocol == "standard" else PublishedLabels)(targets)
        of_value = intersection_over_union(self.count(targets, detections, labels), labels.predicted_counts)
        named = {f"semantic/IoU/{name}": of_value[value] for name, value in zip(classes, labels.values, strict=True)}
        return {"semantic/mIoU": mean([of_value[value] for value in labels.counted]), **named}

    def foreground(self, pixels: np.ndarray) -> dict[str, float | None]:
        """Compute FB-IoU from the pixels of `count`."""
        hit, missed, invented = pixels[1:, 1:].sum(), pixels[1:, 0].sum(), pixels[0, 1:].sum()
        merged = np.array([[pixels[0, 0], invented], [missed, hit]])
        return {"semantic/FB-IoU": mean(intersection_over_union(merged))}

    def count(self, targets: Split, detections: Sequence[Detections], labels: Labels) -> np.ndarray:
        """Count pixels, i64 [V, V], by true value (row) and predicted value (column) of the label maps.

        Keeps the label maps of only one image in memory: two i32 [H, W].
        """
        layers = {found.image_id: labels.found(found, self.threshold) for found in detections}
        size = 1 + max(labels.values)
        pixels = np.zeros(size**2, dtype=np.int64)
        for image_id, record in targets.images.items():
            shape = record["height"], record["width"]
            truth = paint(shape, labels.true(targets.by_image[image_id]))
            guess = paint(shape, layers.get(image_id, ()))
            seen = truth != VOID
            # One bincount over pairs (true, predicted) fills the whole matrix.
            pixels += np.bincount(truth[seen] * size + guess[seen], minlength=len(pixels))
        return pixels.reshape(size, size)


class Labels(ABC):
    """How label maps are made: the values of the classes, and what is painted over what.

    values: the value of each class, in class order. Background has 0. counted: the values over which the mean is taken.
    predicted_counts: whether a value that is only predicted has the IoU 0, not None.
    """

    values: list[int]
    counted: Sequence[int]
    predicted_counts = False

    def __init__(self, targets: Split) -> None:
        self.targets = targets

    @abstractmethod
    def true(self, annotations: Sequence[Record]) -> list[Layer]:
        """Return (value, mask) of the annotations of an image. The last one is on top."""

    @abstractmethod
    def found(self, found: Detections, threshold: float) -> list[Layer]:
        """Return (value, mask) of the detections of at least this score. The last one is on top."""


class StandardLabels(Labels):
    """Labels from 1. On top are small annotations and high scores. The mean is over the classes."""

    def __init__(self, targets: Split) -> None:
        super().__init__(targets)
        self.values = [1 + label for label in range(len(targets.labels))]
        self.counted = self.values

    def true(self, annotations: Sequence[Record]) -> list[Layer]:
        """Return first crowds as VOID, then instances by decreasing area."""
        layers = []
        for annotation in annotations:
            mask, crowd = self.targets.mask(annotation), annotation.get("iscrowd", 0)
            value = VOID if crowd else self.values[self.targets.labels[annotation["category_id"]]]
            layers.append((not crowd, -int(areas([mask])[0]), value, mask))
        # Results must not depend on the file order, so equal areas are sorted by class.
        return [(value, mask) for *_, value, mask in sorted(layers, key=lambda layer: layer[:3])]

    def found(self, found: Detections, threshold: float) -> list[Layer]:
        """Return the lowest score first."""
        return ranked(found, threshold, self.values)[::-1]


class PublishedLabels(Labels):
    """The label maps of the paper's code for COCO-20i.

    The value of a class is its place among all categories of the file, from 0. Background has 0, too. The mean is over
    the values 0 to K-1 that occur, K the number of classes. Of the 20 classes of a COCO-20i fold, only 5 have such a
    value. In fold 0, one of them (person, place 0) is one with the background, so the mean is over 5 values. In the
    other folds it is over 6. Crowds are left out. Annotations are painted in file order. The lowest score lies on top.

    Source: the code of arXiv 2507.02798, read for its formula.
    """

    predicted_counts = True

    def __init__(self, targets: Split) -> None:
        super().__init__(targets)
        place = {label: targets.places[category] for category, label in targets.labels.items()}
        self.values = [place[label] for label in range(len(place))]
        self.counted = [value for value in range(len(place)) if value in {BACKGROUND, *self.values}]

    def true(self, annotations: Sequence[Record]) -> list[Layer]:
        """Return the annotations but crowds, in file order."""
        return [
            (self.targets.places[a["category_id"]], self.targets.mask(a))
            for a in annotations
            if not a.get("iscrowd", 0)
        ]

    def found(self, found: Detections, threshold: float) -> list[Layer]:
        """Return the highest score first."""
        return ranked(found, threshold, self.values)


def paint(size: tuple[int, int], layers: Iterable[Layer]) -> np.ndarray:
    """Paint the layers over each other, i32 [H, W]. The last layer is on top. BACKGROUND where there is no layer."""
    picture = np.full(size, BACKGROUND, dtype=np.int32)
    for value, mask in layers:
        picture[decode([mask])[0]] = value
    return picture


def ranked(found: Detections, threshold: float, values: Sequence[int]) -> list[Layer]:
    """Return (value, mask) of the detections of at least this score, the highest first. values: of each class."""
    order = torch.argsort(found.scores, descending=True, stable=True).tolist()
    return [(values[int(found.labels[i])], found.masks[i]) for i in order if float(found.scores[i]) >= threshold]


def intersection_over_union(pixels: np.ndarray, predicted_counts: bool = False) -> list[float | None]:
    """Compute the IoU of each class from a confusion matrix [K, K].

    None for a class without true pixels; with predicted_counts, for a class without any pixels.
    """
    hits, true = np.diag(pixels), pixels.sum(axis=1)
    union = true + pixels.sum(axis=0) - hits
    occurs = union if predicted_counts else true
    return [float(h / u) if o else None for h, u, o in zip(hits, union, occurs, strict=True)]


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None, or None if there are none."""
    valid = [value for value in values if value is not None]
    return float(np.mean(valid)) if valid else None
