"""The error kind of each detection and the cost of each kind, as defined by TIDE (arXiv 2008.08115).

This is our own code. The authors' package `tidecv` evaluates a whole data set in one process, its public interface does
not return the error of each detection, and it needs OpenCV and seaborn. A test compares the numbers with `tidecv`,
which runs with numpy 2.

Two rules follow pycocotools instead of `tidecv`. `tidecv` counts a class without instances as AP 0, and it assigns
errors to detections in a crowd of their class. All other rules are the same: the thresholds, the order of the tests
and the effect of a fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refexp.data.coco import Split
from refexp.evaluation.overlaps import Kind, iou
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
"""The kinds of error, in TIDE's order. Five are errors of detections, and MISSED is an error of instances."""

MATCH = 0.5
"""Minimum IoU at which a detection matches an instance."""
NEAR = 0.1
"""Minimum IoU at which a detection is related to an instance."""
MOST = 100
"""Number of detections per class and image that count, as in the COCO protocol. The rest is ignored."""


@dataclass(frozen=True)
class Judgement:
    """The detections of one image, compared with its instances.

    labels: i64 [N]. scores: f64 [N]. kinds: N values of HIT, IGNORED or `KINDS`, in the order of the detections.
    nearest: i64 [N], the instance that the detection matches or to which its error belongs. -1: none.
    truth: i64 [T], classes of the instances. ignored: bool [T], crowds. missed: bool [T].
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
        """The instances that a detection matches, bool [T]."""
        hit = np.zeros(len(self.truth), dtype=bool)
        hit[self.nearest[[kind == HIT for kind in self.kinds]]] = True
        return hit


@dataclass(frozen=True)
class Truth:
    """The T annotations of one image, in file order.

    labels: i64 [T]. crowd: bool [T]. shapes: T RLEs for "segm", boxes `x y w h` f64 [T, 4] for "bbox".
    """

    labels: np.ndarray
    crowd: np.ndarray
    shapes: Sequence[Rle] | np.ndarray

    @classmethod
    def of(cls, targets: Split, image_id: ImageId, kind: Kind) -> Truth:
        """Return the ground truth of a target. Raises RefexpError if kind is "segm" and a mask is missing."""
        annotations = targets.by_image[image_id]
        labels = np.array([targets.labels[a["category_id"]] for a in annotations], dtype=np.int64)
        crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
        if kind == "segm":
            return cls(labels, crowd, [targets.mask(a) for a in annotations])
        return cls(labels, crowd, np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4))


def judge_image(kind: Kind, found: Detections, truth: Truth) -> tuple[Judgement, np.ndarray]:
    """Compare the detections of one image with its annotations. Returns the judgement and the IoUs f64 [N, T]."""
    ious = overlaps(kind, found, truth.shapes, truth.crowd.tolist())
    return judge(found.labels.numpy(), found.scores.numpy(), ious, truth.labels, truth.crowd), ious


def overlaps(kind: Kind, found: Detections, truth: Sequence[Rle] | np.ndarray, crowd: Sequence[bool]) -> np.ndarray:
    """Compute the IoU f64 [N, T] of detections and instances. For a crowd it is the covered share of the detection.

    truth: T RLEs for "segm", boxes `x y w h` [T, 4] for "bbox".
    """
    return iou(boxes_xywh(found.masks) if kind == "bbox" else found.masks, truth, crowd)


def judge(
    labels: np.ndarray, scores: np.ndarray, ious: np.ndarray, truth: np.ndarray, ignored: np.ndarray
) -> Judgement:
    """Match as COCO does at IoU .5, and classify each error as TIDE does.

    labels: int [N]. scores: [N]. ious: [N, T] of `overlaps`. truth: int [T], classes. ignored: bool [T], crowds.

    Detections are matched in the order of their scores, to the free instances of their class. For an unmatched
    detection, the first rule that holds decides:
        IGNORED: inside a crowd of its class.
        LOCALISATION: IoU of .1 to .5 with the instance of its class that it overlaps most.
        CLASS: IoU of at least .5 with an instance of another class.
        DUPLICATE: IoU of at least .5 with an instance of its class that another detection matches.
        BACKGROUND: IoU of at most .1 with all instances.
        BOTH: all others.
    MISSED are the instances without a match and without a CLASS or LOCALISATION error that belongs to them.
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
    """Return the error kind of an unmatched detection, and the instance to which the error belongs (-1: none).

    ious: [T]. same: bool [T], the instances of its class.
    """
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
    """Return the index of the largest value among `rows`, or -1 if `rows` is empty. Ties go to the first."""
    return int(np.where(rows, values, -1).argmax()) if rows.any() else -1


def _last_best(values: np.ndarray, rows: np.ndarray) -> int:
    """Do the same, but ties go to the last, as in pycocotools."""
    reverse = _first_best(values[::-1], rows[::-1])
    return len(values) - 1 - reverse if reverse >= 0 else -1


def cost_of_errors(images: Sequence[Judgement], classes: int) -> tuple[float | None, dict[str, float | None]]:
    """Compute nAP50 and, for each kind of error, dAP: the gain in nAP50 if only this kind is fixed (TIDE 2.4).

    All values are fractions, None where no instance counts. The fixes are:
        CLASS, LOCALISATION: for each unmatched instance, the error of highest score becomes a hit. The others are
        removed.
        DUPLICATE, BACKGROUND, BOTH: the detections are removed.
        MISSED: the instances are removed.
    The gains do not add up, because several kinds of error can limit nAP50 together.
    """
    points = _points(images)
    instances = sum((_count(i.truth[~i.ignored], classes) for i in images), np.zeros(classes, dtype=np.int64))
    if not instances.any():
        return None, dict.fromkeys(KINDS)
    evaluated = instances[points.labels] > 0
    before = _mean_ap(points.labels, points.scores, points.kinds == HIT, points.counts & evaluated, instances)
    costs: dict[str, float | None] = {}
    for kind in KINDS:
        labels, positives = points.labels.copy(), instances.copy()
        hits, counts = points.kinds == HIT, points.counts.copy()
        concerned = points.kinds == kind
        if kind == MISSED:
            positives -= sum((_count(i.truth[i.missed], classes) for i in images), np.zeros_like(instances))
        elif kind in (CLASS, LOCALISATION):
            fixed = concerned & points.best
            hits |= fixed
            labels[fixed] = points.about[fixed]
            counts &= ~concerned | fixed
        else:
            counts &= ~concerned
        counts &= instances[labels] > 0
        costs[kind] = max(0.0, _mean_ap(labels, points.scores, hits, counts, positives) - before)
    return before, costs


@dataclass(frozen=True)
class _Points:
    """The detections of all images, concatenated.

    about: class of the nearest instance. best: whether a fix turns the detection into the hit of this instance.
    counts: whether the detection is not ignored.
    """

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
    """Return, for each unmatched instance, its CLASS or LOCALISATION error of highest score, as bool [N]."""
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
    """Return the mean AP over the classes that have an instance or a detection."""
    present = np.flatnonzero((positives > 0) | (_count(labels[counts], len(positives)) > 0))
    rows = [np.flatnonzero(counts & (labels == label)) for label in present]
    pairs = zip(present, rows, strict=True)
    precisions = [average_precision(scores[r], hits[r], int(positives[label])) for label, r in pairs]
    return float(np.mean(precisions)) if precisions else 0.0


def average_precision(scores: np.ndarray, hits: np.ndarray, positives: int) -> float:
    """Compute COCO's AP of one class at one IoU: the mean of the precision envelope at 101 recalls.

    The result is 0 without instances.
    """
    if not positives or not len(scores):
        return 0.0
    right = hits[np.argsort(-scores, kind="stable")].cumsum()
    precision = right / np.arange(1, len(right) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(right / positives, np.linspace(0, 1, 101), side="left")
    return float(np.append(envelope, 0.0)[at].mean())
