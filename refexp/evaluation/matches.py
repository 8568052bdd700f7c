"""Which detections match which instances, and numbers of single images from these matches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
Pair = tuple[int, int]
"""An image and a class."""


@dataclass(frozen=True)
class Matches:
    """The N detections that count and the T instances of a split, without crowds.

    image, label: i64 [N], position of the image among the targets, and class. The detections of a class in an image are
    next to each other, highest score first. score: f64 [N]. hit, ignored: bool [N, 10], at the ten IoUs.
    true_image, true_label: i64 [T]. found: f64 [T], score of the detection that matches at IoU .5; -inf if none does.
    """

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    true_image: np.ndarray
    true_label: np.ndarray
    found: np.ndarray


def rows_by_class(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """The rows of each class, i64 [n], in order. labels: i64 [N]."""
    order = np.argsort(labels.astype(np.min_scalar_type(classes)), kind="stable")  # linear in N for up to 16 bits
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def match(
    truth: Sequence[Mapping[str, Any]],
    results: Sequence[Mapping[str, Any]],
    ious: Mapping[Pair, Any],
    most: int,
) -> Matches:
    """Match as COCOeval does: by falling score, each detection to the free instance of its class with the highest IoU.

    truth, results: COCOeval's rows, with images and classes numbered from 1. ious: COCOeval's IoUs [n, t] by image and
    class. most: detections of a class in an image that count.
    """
    pairs, true_pairs = pairs_of(results), pairs_of(truth)
    scores = np.array([row["score"] for row in results], dtype=np.float64)
    crowd = np.array([row["iscrowd"] for row in truth], dtype=bool)
    hit, ignored = np.zeros((2, len(pairs), len(IOUS)), dtype=bool)
    found, of_truth, kept = np.full(len(truth), -np.inf), rows_of(true_pairs), [np.zeros(0, dtype=np.int64)]
    for pair, every in rows_of(pairs).items():
        rows = every[np.argsort(-scores[every], kind="stable")][:most]
        kept.append(rows)
        if pair in of_truth:
            true_rows = of_truth[pair]
            hit[rows], ignored[rows], taken = match_class(np.asarray(ious[pair]), crowd[true_rows])
            found[true_rows[taken >= 0]] = scores[rows[taken[taken >= 0]]]
    counted = np.concatenate(kept)
    images, labels = pairs[counted].T - 1
    true_images, true_labels = true_pairs[~crowd].T - 1
    return Matches(
        images, labels, scores[counted], hit[counted], ignored[counted], true_images, true_labels, found[~crowd]
    )


def pairs_of(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """The image and the class of each row, i64 [N, 2]."""
    return np.array([(row["image_id"], row["category_id"]) for row in rows], dtype=np.int64).reshape(-1, 2)


def rows_of(pairs: np.ndarray) -> dict[Pair, np.ndarray]:
    """The rows of each pair, in order. pairs: i64 [N, 2]."""
    rows: dict[Pair, list[int]] = defaultdict(list)
    for row, (image, label) in enumerate(pairs.tolist()):
        rows[image, label].append(row)
    return {pair: np.array(of_pair) for pair, of_pair in rows.items()}


def match_class(ious: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match the detections of a class in an image, highest score first.

    ious: f64 [N, T]. crowd: bool [T]. Returns hits and ignored ones, bool [N, 10], and the detection of each instance
    at IoU .5, i64 [T], -1 without one.
    """
    hit, ignored = np.zeros((2, len(ious), len(IOUS)), dtype=bool)
    taken = np.full((len(IOUS), len(crowd)), -1)
    for row in np.flatnonzero(ious.max(axis=1) >= IOUS[0]).tolist():
        fits = ious[row] >= IOUS[:, None]
        free = fits & ~crowd & (taken < 0)
        hit[row] = free.any(axis=1)
        ignored[row] = ~hit[row] & (fits & crowd).any(axis=1)
        best = (
            len(crowd) - 1 - np.where(free, ious[row], -1)[:, ::-1].argmax(axis=1)
        )  # COCOeval takes the last of equals
        taken[hit[row], best[hit[row]]] = row
    return hit, ignored, taken[0]


def precision_by_image(matches: Matches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The average precision of each class in each image that shows it, at the ten IoUs.

    Returns images i64 [P], classes i64 [P] and precisions f64 [P, 10].
    """
    from refexp.kernels.image_precision import image_precision  # imports numba, which takes half a second

    classes = 1 + max(matches.label.max(initial=0), matches.true_label.max(initial=0))
    truth, first, instances = np.unique(
        matches.true_image * classes + matches.true_label, return_index=True, return_counts=True
    )
    shown = np.argsort(first)  # in the order of their first instances
    pairs, instances = truth[shown], instances[shown]
    of_rows = matches.image * classes + matches.label
    bounds = np.append(np.flatnonzero(np.diff(of_rows, prepend=-1)), len(of_rows))
    found = dict(zip(of_rows[bounds[:-1]].tolist(), bounds[:-1].tolist(), strict=True))
    starts = np.array([found.get(pair, len(of_rows)) for pair in pairs.tolist()], dtype=np.int64)
    ends = bounds[np.minimum(np.searchsorted(bounds, starts, side="right"), len(bounds) - 1)]
    precision = np.zeros((len(pairs), len(IOUS)))
    hit, ignored = np.ascontiguousarray(matches.hit), np.ascontiguousarray(matches.ignored)
    image_precision(starts, ends, instances, hit, ignored, RECALLS, precision)
    return pairs // classes, pairs % classes, precision


def numbers_by_image(matches: Matches, images: int, threshold: float | None) -> dict[str, list[float | int | None]]:
    """`nAP` and `nAP50` of each image, over the classes that it shows (None: no instance), and counts at IoU .5.

    The counts are `hits`, `false` detections and `missed` instances. threshold: lowest score of the detections that
    are counted. None: none is.
    """

    def count(places: np.ndarray) -> np.ndarray:
        return np.bincount(places, minlength=images)

    image, _, precision = precision_by_image(matches)
    classes = count(image)
    mean = np.stack([np.bincount(image, one, images) for one in precision.T]) / np.maximum(classes, 1)
    nap, nap50 = (np.where(classes > 0, row, np.array(None)).tolist() for row in (mean.mean(axis=0), mean[0]))
    counts = matches.score >= (np.inf if threshold is None else threshold)
    hit, ignored = matches.hit[:, 0], matches.ignored[:, 0]
    hits = count(matches.image[counts & hit])
    false = count(matches.image[counts & ~hit & ~ignored])
    missed = count(matches.true_image) - hits
    return {"nAP": nap, "nAP50": nap50, "hits": hits.tolist(), "false": false.tolist(), "missed": missed.tolist()}
