"""COCO's evaluation, image by image: overlaps once per mask, greedy matches, and precision and recall from these.

The numbers equal pycocotools' to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from refexp.data.coco import Record, Split
from refexp.data.protocols import Protocol, as_other
from refexp.evaluation.matches import IOUS, RECALLS, Matches, rows_by_class
from refexp.evaluation.overlaps import Kind, annotated, detected, iou
from refexp.evaluation.protocol import ByImage, Evaluated, Matched
from refexp.evaluation.summary import per_class, summarise
from refexp.evaluation.threshold import best_f1
from refexp.kernels.accumulation import accumulate, count_hits
from refexp.kernels.matching import grouped, match
from refexp.masks import Rle
from refexp.types import Detections, ImageId

AREAS = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)])
"""COCO's area ranges: all, small, medium, large. Both ends belong to the range."""


class Measure(NamedTuple):
    """What overlaps are of: boxes or masks, by one of the protocols."""

    kind: Kind
    protocol: Protocol = "standard"


class CocoByImage(ByImage):
    """The COCO protocol by P measures. The first measure's protocol leads.

    limits: numbers of detections per class and image for which recall is computed. The last one counts for the rest.
    """

    def __init__(
        self,
        targets: Split,
        classes: Sequence[str],
        measures: Sequence[Measure],
        limits: Sequence[int] = (1, 10, 100),
    ) -> None:
        self.targets, self.classes, self.measures, self.limits = targets, classes, measures, limits
        self._seen: SeenImage | None = None

    def match(self, found: Detections) -> Matched:
        """Match the detections of one target. Cost: overlaps of the masks that earlier variants of the image lack."""
        if self._seen is None or self._seen.id != found.image_id:
            self._seen = SeenImage(self.targets, found.image_id, self.measures)
        image, truth, scores = self._seen, self._seen.truth, found.scores.numpy()
        labels = np.ascontiguousarray(found.labels.numpy(), dtype=np.int64)
        order = grouped(labels, np.argsort(-scores, kind="stable"), len(self.classes), self.limits[-1])
        rows, labels = image.rows(found.masks)[order], labels[order]
        hit, ignored = np.zeros((len(self.measures), len(rows)), dtype=np.uint64), image.outside.take(rows, axis=1)
        taken = np.full((len(self.measures), len(truth.labels)), -1, dtype=np.int32)
        match(image.ious, rows, labels, truth.labels, truth.crowd, truth.aside, IOUS, hit, ignored, taken)
        return Matched(labels.astype(np.int32), scores[order], hit, ignored, taken)

    def conclude(self, matched: Sequence[Matched]) -> Evaluated:
        """Compute the metrics of each measure, and curves and matches by the leading protocol."""
        found = Found(matched, len(self.classes))
        evaluated, matches = Evaluated({}, {}), dict[str, Matches]()
        for place, (kind, protocol) in enumerate(self.measures):
            hit, ignored, taken = (
                np.concatenate([getattr(one, name)[place] for one in matched]) for name in ("hit", "ignored", "taken")
            )
            precision, recall = self._accumulate(found, hit, ignored, self._truth.counts(len(self.classes))[place])
            of_measure = self._matches(found, hit, ignored, taken)
            named = self.numbers(precision, recall, of_measure)
            metrics = {f"{kind}/{name}": value for name, value in named.items()}
            if protocol == self.measures[0].protocol:
                evaluated.curves[kind], matches[kind] = np.ascontiguousarray(precision[..., 0]), of_measure
            else:
                metrics = as_other(metrics, protocol)
            evaluated.metrics.update(metrics)
        return evaluated._replace(matches=matches)

    def numbers(self, precision: np.ndarray, recall: np.ndarray, matches: Matches) -> dict[str, float | None]:
        """Compute the metrics of a measure. precision: f64 [10, 101, K, 4]. recall: f64 [10, K, 4, limits]."""
        named = summarise(precision, recall, self.limits)
        return named | per_class(precision[..., 0], self.classes) | best_f1(matches, self.classes)

    @cached_property
    def _truth(self) -> Truth:
        return Truth.of(self.targets, self.targets.annotations, self.measures)

    @cached_property
    def _true_images(self) -> np.ndarray:
        """The position of each annotation's image, i64 [T]."""
        number = {image_id: place for place, image_id in enumerate(self.targets.images)}
        return np.array([number[a["image_id"]] for a in self.targets.annotations], dtype=np.int64)

    def _accumulate(
        self, found: Found, hit: np.ndarray, ignored: np.ndarray, instances: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return precision f64 [10, 101, K, 4] at the last limit and recall f64 [10, K, 4, limits]."""
        counts = np.zeros((len(AREAS) * len(IOUS), len(self.classes), len(self.limits)), dtype=np.int64)
        count_hits(found.label, found.rank, hit, np.array(self.limits), counts)
        hits = counts.reshape(len(AREAS), len(IOUS), *counts.shape[1:]).transpose(1, 2, 0, 3)
        wanted = instances[None, :, :, None]
        recall = np.where(wanted > 0, hits / np.maximum(wanted, 1), -1.0)
        precision, score = np.full((2, len(IOUS), len(RECALLS), *instances.shape), -1.0)
        rows = hit[found.order], ignored[found.order], found.score[found.order]
        accumulate(found.by_class, *rows, instances, RECALLS, precision, score)
        return precision, recall

    def _matches(self, found: Found, hit: np.ndarray, ignored: np.ndarray, taken: np.ndarray) -> Matches:
        """Convert the matches of all images, whose annotations follow one another, to the order of the file."""
        truth, images = self._truth, self._true_images
        score, has = np.full(len(taken), -np.inf), taken >= 0
        at = np.argsort(images, kind="stable")[has]
        score[at] = found.score[found.starts[images[at]] + taken[has]]
        counts = ~truth.crowd
        return Matches(
            found.image, found.label, found.score, first_bits(hit), first_bits(ignored),
            images[counts], truth.labels[counts], score[counts],
        )  # fmt: skip


class Truth(NamedTuple):
    """T annotations. labels: i64 [T]. crowd: bool [T]. aside: bool [P, 4, T], not asked for in the area range."""

    labels: np.ndarray
    crowd: np.ndarray
    aside: np.ndarray

    @classmethod
    def of(cls, targets: Split, annotations: Sequence[Record], measures: Sequence[Measure]) -> Truth:
        """Return the truth of some annotations, in their order."""
        labels = np.array([targets.labels[a["category_id"]] for a in annotations], dtype=np.int64)
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        areas = [[annotated(kind, a, targets, protocol)[1] for a in annotations] for kind, protocol in measures]
        return cls(labels, crowd, crowd | out_of_range(np.array(areas, dtype=np.float64)))

    def counts(self, classes: int) -> np.ndarray:
        """Count the instances of each class and area range, i64 [P, K, 4]."""
        counts = [[np.bincount(self.labels[~area], minlength=classes) for area in one] for one in self.aside]
        return np.array(counts).transpose(0, 2, 1)


class SeenImage:
    """One target: its truth, and the overlaps with it of all masks so far.

    ious: f64 [P, M, T]. outside: u64 [P, M], bits of the area ranges that the mask is outside of.
    """

    def __init__(self, targets: Split, image_id: ImageId, measures: Sequence[Measure]) -> None:
        self.id, self.targets, self.measures = image_id, targets, measures
        self.annotations = targets.by_image[image_id]
        self.truth = Truth.of(targets, self.annotations, measures)
        self.ious = np.zeros((len(measures), 0, len(self.annotations)))
        self.outside = np.zeros((len(measures), 0), dtype=np.uint64)
        self._rows: dict[bytes, int] = {}

    def rows(self, masks: Sequence[Rle]) -> np.ndarray:
        """Return the rows of masks of this image, i64 [N]. Masks that are new get one."""
        new = {mask["counts"]: mask for mask in masks if mask["counts"] not in self._rows}
        if new:
            self._learn(list(new.values()))  # first: it raises for an invalid mask
            self._rows |= {counts: row for row, counts in enumerate(new, start=len(self._rows))}
        return np.array([self._rows[mask["counts"]] for mask in masks], dtype=np.int64)

    def _learn(self, masks: Sequence[Rle]) -> None:
        ious, sizes = [], []
        for kind, protocol in self.measures:
            shapes, size = detected(kind, masks, protocol)
            ious.append(iou(shapes, self.shapes[Measure(kind, protocol)], self.truth.crowd.tolist()))
            sizes.append(size)
        out = np.repeat(out_of_range(np.array(sizes, dtype=np.float64)), len(IOUS), axis=1)
        bits = np.left_shift(np.uint64(1), np.arange(out.shape[1], dtype=np.uint64))
        outside = (out * bits[:, None]).sum(axis=1, dtype=np.uint64)
        self.ious = np.concatenate([self.ious, np.stack(ious)], axis=1)
        self.outside = np.concatenate([self.outside, outside], axis=1)

    @cached_property
    def shapes(self) -> dict[Measure, list[Rle] | np.ndarray]:
        """The masks or the boxes, f64 [T, 4], of the annotations by measure."""
        found: dict[Measure, list[Rle] | np.ndarray] = {}
        for measure in self.measures:
            if measure.kind == "segm":
                found[measure] = [self.targets.mask(a) for a in self.annotations]
            else:
                boxes = [annotated(measure.kind, a, self.targets, measure.protocol)[0] for a in self.annotations]
                found[measure] = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        return found


class Found:
    """The N detections of all images that count, image by image, as `Matched` has them.

    image, label: i64 [N]. score: f64 [N]. starts: i64 [images], the first detection of each. rank: i64 [N], among
    those of its class and image. order: i64 [N], by class and then falling score. by_class: i64 [K + 1], where the
    detections of each class start in this order.
    """

    def __init__(self, matched: Sequence[Matched], classes: int) -> None:
        counts = np.array([len(one.label) for one in matched], dtype=np.int64)
        self.starts = counts.cumsum() - counts
        self.image = np.repeat(np.arange(len(matched)), counts)
        self.label = np.concatenate([one.label for one in matched]).astype(np.int64)
        self.score = np.concatenate([one.score for one in matched]).astype(np.float64)
        first = np.flatnonzero(np.diff(self.image * classes + self.label, prepend=-1))
        self.rank = np.arange(len(self.label)) - np.repeat(first, np.diff(first, append=len(self.label)))
        parts = rows_by_class(self.label, classes)
        self.order = np.concatenate([rows[np.argsort(-self.score[rows], kind="stable")] for rows in parts])
        self.by_class = np.cumsum([0, *map(len, parts)])


def out_of_range(areas: np.ndarray) -> np.ndarray:
    """Whether areas f64 [P, N] are outside of each area range, bool [P, 4, N]."""
    low, high = AREAS.T[:, :, None]
    return (areas[:, None] < low) | (areas[:, None] > high)


def first_bits(bits: np.ndarray) -> np.ndarray:
    """The bits of the ten IoUs over all areas. bits: u64 [N] -> bool [N, 10]."""
    low = bits.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :2]
    return np.unpackbits(low, axis=1, count=len(IOUS), bitorder="little").view(bool)
