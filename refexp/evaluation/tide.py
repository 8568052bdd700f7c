"""What is wrong with each detection, and what each kind of error costs: the error kinds of TIDE (arXiv 2008.08115).

Own code, not the authors' package `tidecv`: that one runs with numpy 2, and a test compares the figures with it. But
it judges a whole data set at once in one process, says of no detection what is wrong with it
through a public interface, and needs OpenCV and seaborn. Two of its rules differ from
pycocotools, which decides here: it counts a class without any instance as AP 0, and it looks for errors in
detections that a crowd excuses. Everything else is as there: thresholds, order of the tests, what a fix does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from refexp.data.coco import Split
from refexp.evaluation.coco_protocol import Kind
from refexp.masks import Rle, boxes_xywh
from refexp.types import Detections, ImageId

HIT = "hit"
CLASS = "class"
LOCALISATION = "localisation"
BOTH = "both"
DUPLICATE = "duplicate"
BACKGROUND = "background"
MISSED = "missed"
IGNORED = "ignored"

KINDS = (CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED)
"""The kinds of error, in TIDE's order: five of detections, and MISSED of instances."""

MATCH = 0.5
"""IoU from which on a detection and an instance are the same thing."""
NEAR = 0.1
"""IoU below which a detection has nothing to do with an instance."""
MOST = 100
"""Detections of a class in an image that count, as in the COCO protocol; the rest is ignored."""


@dataclass(frozen=True)
class Judgement:
    """One image's detections against its instances.

    labels: i64 [N]; scores: f64 [N]; kinds: N of HIT, IGNORED and `KINDS`, in the order of the detections.
    nearest: i64 [N], the instance that a detection was matched with or that its error is about; -1: none.
    truth: i64 [T], classes of the instances; ignored: bool [T], crowds; missed: bool [T].
    """

    labels: np.ndarray
    scores: np.ndarray
    kinds: list[str]
    nearest: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray
    missed: np.ndarray

    @property
    def matched(self) -> np.ndarray:
        """Instances that a detection hit, bool [T]."""
        hit = np.zeros(len(self.truth), dtype=bool)
        hit[self.nearest[[kind == HIT for kind in self.kinds]]] = True
        return hit


@dataclass(frozen=True)
class Truth:
    """One image's T annotations, in file order.

    labels: i64 [T]; crowd: bool [T]; shapes: T RLEs for "segm", boxes `x y w h` f64 [T, 4] for "bbox".
    """

    labels: np.ndarray
    crowd: np.ndarray
    shapes: Sequence[Rle] | np.ndarray

    @classmethod
    def of(cls, targets: Split, image_id: ImageId, kind: Kind) -> Truth:
        """What is to be found in a target. Raises RefexpError if a mask is asked for and missing."""
        annotations = targets.by_image[image_id]
        labels = np.array([targets.labels[a["category_id"]] for a in annotations], dtype=np.int64)
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        if kind == "segm":
            return cls(labels, crowd, [targets.mask(a) for a in annotations])
        return cls(labels, crowd, np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4))


def judge_image(kind: Kind, found: Detections, truth: Truth) -> tuple[Judgement, np.ndarray]:
    """One image's detections beside its annotations: `judge` of them, and their overlaps f64 [N, T]."""
    ious = overlaps(kind, found, truth.shapes, truth.crowd.tolist())
    return judge(found.labels.numpy(), found.scores.numpy(), ious, truth.labels, truth.crowd), ious


def overlaps(kind: Kind, found: Detections, truth: Sequence[Rle] | np.ndarray, crowd: Sequence[bool]) -> np.ndarray:
    """IoU f64 [N, T] of detections and instances; with a crowd, the covered share of the detection.

    truth: T RLEs for "segm", boxes `x y w h` [T, 4] for "bbox".
    """
    return iou(boxes_xywh(found.masks) if kind == "bbox" else found.masks, truth, crowd)


def iou(found: Sequence[Rle] | np.ndarray, truth: Sequence[Rle] | np.ndarray, crowd: Sequence[bool]) -> np.ndarray:
    """IoU f64 [N, T] by pycocotools, of RLEs or of boxes `x y w h`. Costs O(N x T) run-length intersections.

    Masks whose boxes are apart are not compared.
    """
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    sides = [side.astype(np.float64) if isinstance(side, np.ndarray) else list(side) for side in (found, truth)]
    return np.asarray(coco_mask.iou(*sides, [int(flag) for flag in crowd]), dtype=np.float64)


def judge(
    labels: np.ndarray, scores: np.ndarray, ious: np.ndarray, truth: np.ndarray, ignored: np.ndarray
) -> Judgement:
    """Match as COCO does at IoU .5, and name each error as TIDE does.

    labels: int [N]; scores: [N]; ious: [N, T] of `overlaps`; truth: int [T], classes; ignored: bool [T], crowds.
    The best detection chooses first, among the instances of its class that are free. What is left is, by the first
    rule that holds: IGNORED inside a crowd of its class; LOCALISATION, IoU of .1 to .5 with the instance of its class
    that it overlaps most; CLASS, .5 with one of another class; DUPLICATE, .5 with one of its class that is taken;
    BACKGROUND, at most .1 with all; else BOTH. MISSED are instances without a hit that no CLASS or LOCALISATION error
    is about.
    """
    labels, scores, truth = np.asarray(labels, np.int64), np.asarray(scores, np.float64), np.asarray(truth, np.int64)
    ignored = np.asarray(ignored, dtype=bool)
    kinds, nearest = [IGNORED] * len(labels), np.full(len(labels), -1, dtype=np.int64)
    taken = np.zeros(len(truth), dtype=bool)
    wrong, seen = [], dict.fromkeys(labels.tolist(), 0)
    for row in np.argsort(-scores, kind="stable").tolist():
        seen[int(labels[row])] += 1
        if seen[int(labels[row])] > MOST:
            continue
        same = truth == labels[row]
        choice = _last_best(ious[row], same & ~ignored & ~taken)
        if choice >= 0 and ious[row, choice] >= MATCH:
            kinds[row], nearest[row], taken[choice] = HIT, choice, True
        elif not (ious[row, same & ignored] >= MATCH).any():
            wrong.append(row)
    missed = ~taken & ~ignored
    for row in wrong:
        kinds[row], nearest[row] = _error(ious[row], truth == labels[row], ignored)
        if kinds[row] in (CLASS, LOCALISATION):
            missed[nearest[row]] = False
    return Judgement(labels, scores, kinds, nearest, truth, ignored, missed)


def _error(ious: np.ndarray, same: np.ndarray, ignored: np.ndarray) -> tuple[str, int]:
    """The kind of a wrong detection's error, and the instance it is about; ious [T], same: of its class, bool [T]."""
    own, other, any_ = (_first_best(ious, rows & ~ignored) for rows in (same, ~same, np.ones_like(same)))
    if own >= 0 and NEAR <= ious[own] <= MATCH:
        return LOCALISATION, own
    if other >= 0 and ious[other] >= MATCH:
        return CLASS, other
    if own >= 0 and ious[own] >= MATCH:
        return DUPLICATE, own
    if any_ >= 0 and ious[any_] > NEAR:
        return BOTH, any_
    return BACKGROUND, -1


def _first_best(values: np.ndarray, rows: np.ndarray) -> int:
    """Index of the largest of the chosen values; -1 if none is chosen."""
    return int(np.where(rows, values, -1).argmax()) if rows.any() else -1


def _last_best(values: np.ndarray, rows: np.ndarray) -> int:
    """The same; of equal ones the last, as pycocotools takes it."""
    reverse = _first_best(values[::-1], rows[::-1])
    return len(values) - 1 - reverse if reverse >= 0 else -1


def cost_of_errors(images: Sequence[Judgement], classes: int) -> tuple[float | None, dict[str, float | None]]:
    """nAP50, and per kind of error dAP, by how much nAP50 rises if errors of this kind alone are put right (TIDE 2.4).

    Fractions; None where no instance counts. CLASS and LOCALISATION errors about an instance without a hit become hits,
    only the best of them an instance, the others vanish; DUPLICATE, BACKGROUND and BOTH vanish; of MISSED instances
    nobody asks. These do not add up: what several kinds hold back together, none frees alone.
    """
    points = _points(images)
    asked = sum((_count(i.truth[~i.ignored], classes) for i in images), np.zeros(classes, dtype=np.int64))
    if not asked.any():
        return None, dict.fromkeys(KINDS)
    known = asked[points.labels] > 0
    before = _mean_ap(points.labels, points.scores, points.kinds == HIT, points.counts & known, asked)
    costs: dict[str, float | None] = {}
    for kind in KINDS:
        labels, positives = points.labels.copy(), asked.copy()
        hits, counts = points.kinds == HIT, points.counts.copy()
        concerned = points.kinds == kind
        if kind == MISSED:
            positives -= sum((_count(i.truth[i.missed], classes) for i in images), np.zeros_like(asked))
        elif kind in (CLASS, LOCALISATION):
            mended = concerned & points.best
            hits |= mended
            labels[mended] = points.about[mended]
            counts &= ~concerned | mended
        else:
            counts &= ~concerned
        counts &= asked[labels] > 0
        costs[kind] = max(0.0, _mean_ap(labels, points.scores, hits, counts, positives) - before)
    return before, costs


@dataclass(frozen=True)
class _Points:
    """All detections end to end. about: class of the nearest instance; best: the one that may claim it; counts."""

    labels: np.ndarray
    scores: np.ndarray
    kinds: np.ndarray
    about: np.ndarray
    best: np.ndarray
    counts: np.ndarray


def _points(images: Sequence[Judgement]) -> _Points:
    kinds = np.array([kind for image in images for kind in image.kinds], dtype=object)

    def end_to_end(parts: list[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype)

    about = [image.truth[image.nearest] if len(image.truth) else image.nearest for image in images]
    return _Points(
        labels=end_to_end([image.labels for image in images], np.int64),
        scores=end_to_end([image.scores for image in images], np.float64),
        kinds=kinds,
        about=end_to_end(about, np.int64),
        best=end_to_end([_best_claims(image) for image in images], bool),
        counts=np.array(kinds != IGNORED, dtype=bool),
    )


def _best_claims(image: Judgement) -> np.ndarray:
    """Of the CLASS and LOCALISATION errors about one instance without a hit, the one of highest score; bool [N]."""
    claimed, best = image.matched, np.zeros(len(image.labels), dtype=bool)
    for row in np.argsort(-image.scores, kind="stable").tolist():
        if image.kinds[row] in (CLASS, LOCALISATION) and not claimed[image.nearest[row]]:
            best[row] = claimed[image.nearest[row]] = True
    return best


def _count(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels, minlength=classes)


def _mean_ap(
    labels: np.ndarray, scores: np.ndarray, hits: np.ndarray, counts: np.ndarray, positives: np.ndarray
) -> float:
    """Mean over the classes that have an instance or a detection."""
    there = np.flatnonzero((positives > 0) | (_count(labels[counts], len(positives)) > 0))
    rows = [np.flatnonzero(counts & (labels == label)) for label in there]
    found = [average_precision(scores[r], hits[r], int(positives[label])) for label, r in zip(there, rows, strict=True)]
    return float(np.mean(found)) if found else 0.0


def average_precision(scores: np.ndarray, hits: np.ndarray, positives: int) -> float:
    """COCO's AP of one class at one IoU: the envelope of precision at 101 recalls. 0 if nothing is asked for."""
    if not positives or not len(scores):
        return 0.0
    right = hits[np.argsort(-scores, kind="stable")].cumsum()
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / positives, np.linspace(0, 1, 101), side="left")
    return float(np.append(envelope, 0.0)[at].mean())
