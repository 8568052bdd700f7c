"""The LVIS evaluation, image by image: COCO's engine with the rules for images annotated for some classes only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from refexp.data.coco import Record
from refexp.data.lvis import FREQUENCIES, LvisSplit, federated_images
from refexp.evaluation.engine import CocoByImage, Measure
from refexp.evaluation.matches import Matches
from refexp.evaluation.overlaps import Kind
from refexp.evaluation.protocol import Matched
from refexp.evaluation.summary import mean_counted, per_class, summarise
from refexp.evaluation.threshold import best_f1
from refexp.types import Detections


class LvisByImage(CocoByImage):
    """The LVIS protocol. max_detections: number of detections per image that count, over all classes."""

    targets: LvisSplit

    def __init__(self, targets: LvisSplit, classes: Sequence[str], kinds: Sequence[Kind], max_detections: int) -> None:
        measures = [Measure(kind) for kind in kinds]
        super().__init__(targets, classes, measures, (1, 10, 100, max_detections))
        self._images = federated_images(targets)

    def match(self, found: Detections) -> Matched:
        """Match the detections that count. Ignore the unmatched ones of classes that are not annotated exhaustively."""
        image = self._images[found.image_id]
        matched = super().match(in_known_classes(top_scores(found, self.limits[-1]), image))
        unsure = np.isin(matched.label + 1, image["not_exhaustive_category_ids"])
        return replace(matched, ignored=np.where(unsure, ~matched.hit, matched.ignored))

    def numbers(self, precision: np.ndarray, recall: np.ndarray, matches: Matches) -> dict[str, float | None]:
        """Compute the metrics of a measure, with the means over the classes of each frequency."""
        named, curves = summarise(precision, recall, self.limits), precision[..., 0]
        for group in FREQUENCIES:
            labels = [label for label, frequency in self.targets.frequencies().items() if frequency == group]
            named[f"nAP_{group}"] = mean_counted(curves[:, :, labels])
        return named | per_class(curves, self.classes) | best_f1(matches, self.classes)


def top_scores(found: Detections, count: int) -> Detections:
    """Return the `count` detections of highest score."""
    return found.pick(torch.argsort(found.scores, descending=True, stable=True)[:count].tolist())


def in_known_classes(found: Detections, image: Record) -> Detections:
    """Return the detections of the image's known classes.

    In other classes, nothing is known to be right or wrong.
    """
    return found.pick([row for row, label in enumerate(found.labels.tolist()) if label + 1 in image["known"]])
