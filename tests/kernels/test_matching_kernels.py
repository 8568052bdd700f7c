"""The kernels of COCO's evaluation against plain versions of the same rules, on random arrays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from refexp.kernels.accumulation import accumulate, count_hits
from refexp.kernels.matching import grouped, match

THRESHOLDS, RECALLS = np.array([0.5, 0.75]), np.linspace(0, 1, 11)
AREAS = 3


def plainly_grouped(labels, ranked, most):
    rows = []
    for label in dict.fromkeys(labels.tolist()):
        rows += [row for row in ranked.tolist() if labels[row] == label][:most]
    return rows


def test_detections_are_grouped_by_class_best_first():
    rng = np.random.default_rng(0)
    for _ in range(1000):
        labels = rng.integers(0, 4, rng.integers(0, 12))
        ranked = np.argsort(-rng.integers(0, 5, len(labels)), kind="stable")
        most = int(rng.integers(1, 6))
        assert grouped(labels, ranked, 4, most).tolist() == plainly_grouped(labels, ranked, most)


def plainly_matched(ious, crowd, aside, threshold):
    """COCOeval's loop for the detections of one class in one image, ious [N, T]: the instance of each; None without."""
    order = np.argsort(aside, kind="stable").tolist()
    used, matched = set(), []
    for row in ious:
        best, highest = None, threshold
        for one in order:
            if one in used and not crowd[one]:
                continue
            if best is not None and aside[one] and not aside[best]:
                break
            if row[one] >= highest:
                best, highest = one, row[one]
        used.add(best)
        matched.append(best)
    return matched


def random_image(rng):
    measures, masks, instances = 2, 6, int(rng.integers(0, 7))
    ious = rng.choice([0, 0.3, 0.5, 0.6, 0.75, 0.8, 1], (measures, masks, instances))
    rows, labels = rng.integers(0, masks, 10), np.sort(rng.integers(0, 3, 10))
    crowd = rng.random(instances) < 0.3
    aside = crowd | (rng.random((measures, AREAS, instances)) < 0.3)
    return ious, rows, labels, rng.integers(0, 3, instances), crowd, aside


def test_matches_are_those_of_the_plain_loop():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(1000):
        ious, rows, labels, true_labels, crowd, aside = random_image(rng)
        ignored = rng.integers(0, 1 << 6, (2, 10), dtype=np.uint64)
        hit, before, taken = np.zeros_like(ignored), ignored.copy(), np.full((2, len(crowd)), -1, dtype=np.int32)
        match(ious, rows, labels, true_labels, crowd, aside, THRESHOLDS, hit, ignored, taken)
        for p, area, step, label in np.ndindex(2, AREAS, 2, 3):
            mine, same = np.flatnonzero(labels == label), np.flatnonzero(true_labels == label)
            expected = plainly_matched(
                ious[p][rows[mine]][:, same], crowd[same], aside[p, area, same], THRESHOLDS[step]
            )
            bit = area * 2 + step
            for row, one in zip(mine.tolist(), expected, strict=True):
                late = one is not None and aside[p, area, same[one]]
                assert bool(hit[p, row] >> bit & 1) == (one is not None and not late)
                assert bool(ignored[p, row] >> bit & 1) == (bool(before[p, row] >> bit & 1) if one is None else late)
                if bit == 0 and one is not None and not late:
                    assert taken[p, same[one]] == row
                    hits += 1
        assert (taken >= 0).sum() == (hit & 1).sum()
    assert hits > 1000


def plainly_accumulated(hit, ignored, scores, instances):
    """COCOeval's precision and score at RECALLS. hit, ignored: bool [N], best first."""
    right, wrong = np.cumsum(hit).astype(float), np.cumsum(~hit & ~ignored).astype(float)
    recall, precision = right / instances, (right / (right + wrong + np.spacing(1))).tolist()
    for at in range(len(precision) - 1, 0, -1):
        precision[at - 1] = max(precision[at - 1], precision[at])
    found = np.searchsorted(recall, RECALLS, side="left")
    inside = found < len(hit)
    at = found[inside]
    q, s = np.zeros((2, len(RECALLS)))
    q[inside], s[inside] = np.array(precision)[at] if len(hit) else [], scores[at]
    return q, s


def test_curves_are_those_of_the_plain_loop():
    rng = np.random.default_rng(2)
    for _ in range(300):
        starts = np.cumsum([0, *rng.integers(0, 15, 3)])
        count = starts[-1]
        bits = rng.random((2, count, AREAS * 2)) < rng.choice([0, 0.3, 0.9])
        bits[1] &= ~bits[0]
        hit, ignored = (bits.astype(np.uint64) << np.arange(AREAS * 2, dtype=np.uint64)).sum(axis=2, dtype=np.uint64)
        scores, ranks = rng.integers(0, 5, count) / 4, rng.integers(0, 12, count)
        # As many instances as hits, at least; in some areas none, and then no hit.
        reached = [bits[0][start:end].sum(axis=0) for start, end in pairwise(starts)]
        instances = np.array(reached).reshape(3, AREAS, 2).max(axis=2) + rng.integers(0, 3, (3, AREAS))
        precision, score = np.full((2, 2, len(RECALLS), 3, AREAS), -1.0)
        accumulate(starts, hit, ignored, scores, instances, RECALLS, precision, score)
        labels, limits = np.repeat(np.arange(3), np.diff(starts)), np.array([1, 10])
        counts = np.zeros((AREAS * 2, 3, 2), dtype=np.int64)
        count_hits(labels, ranks, hit, limits, counts)
        for label, area, step in np.ndindex(3, AREAS, 2):
            rows, bit = slice(starts[label], starts[label + 1]), area * 2 + step
            for place, limit in enumerate(limits):
                assert counts[bit, label, place] == bits[0][rows][ranks[rows] < limit, bit].sum()
            if not instances[label, area]:
                assert (precision[step, :, label, area] == -1).all()
                continue
            q, s = plainly_accumulated(bits[0][rows, bit], bits[1][rows, bit], scores[rows], instances[label, area])
            assert np.array_equal(precision[step, :, label, area], q)
            assert np.array_equal(score[step, :, label, area], s)
