"""COCO's precision and recall of a split, from the matches of its images."""

from __future__ import annotations

import numpy as np

from refexp.kernels import compiled


@compiled
def accumulate(
    starts: np.ndarray,
    hit: np.ndarray,
    ignored: np.ndarray,
    scores: np.ndarray,
    instances: np.ndarray,
    recalls: np.ndarray,
    precision: np.ndarray,
    score: np.ndarray,
) -> None:
    """Compute the precision and the score at given recalls.

    starts: i64 [K + 1], the detections of each class. hit, ignored: u64 [N], bits `area * I + threshold`, class after
    class, best first. scores: f64 [N]. instances: i64 [K, A], those that count. recalls: f64 [R], rising.
    precision, score: f64 [I, R, K, A], set here where an instance counts.
    """
    thresholds, _, classes, areas = precision.shape
    most = instances.max()
    envelope, reached = np.empty((thresholds, most)), np.empty((thresholds, most))
    for label in range(classes):
        start, end = starts[label], starts[label + 1]
        for area in range(areas):
            wanted = instances[label, area]
            if wanted == 0:
                continue
            hits, false = np.zeros(thresholds, dtype=np.int64), np.zeros(thresholds, dtype=np.int64)
            # COCO's envelope of the precision changes only at hits.
            for row in range(start, end):
                right = hit[row] >> np.uint64(area * thresholds)
                wrong = ~(hit[row] | ignored[row]) >> np.uint64(area * thresholds)
                for step in range(thresholds):
                    false[step] += np.int64((wrong >> np.uint64(step)) & np.uint64(1))
                if not right & ((np.uint64(1) << np.uint64(thresholds)) - np.uint64(1)):
                    continue
                for step in range(thresholds):
                    if (right >> np.uint64(step)) & np.uint64(1):
                        found = hits[step] + 1
                        envelope[step, hits[step]] = found / (np.float64(false[step] + found) + 2.220446049250313e-16)
                        reached[step, hits[step]] = scores[row]
                        hits[step] = found
            for step in range(thresholds):
                for at in range(hits[step] - 1, 0, -1):
                    envelope[step, at - 1] = max(envelope[step, at - 1], envelope[step, at])
                at = 0
                for place in range(len(recalls)):
                    while at < hits[step] and (at + 1) / wanted < recalls[place]:
                        at += 1
                    precision[step, place, label, area] = envelope[step, at] if at < hits[step] else 0.0
                    score[step, place, label, area] = reached[step, at] if at < hits[step] else 0.0
                    if recalls[place] <= 0 and end > start:  # the first detection reaches it, right or wrong
                        score[step, place, label, area] = scores[start]


@compiled
def count_hits(labels: np.ndarray, ranks: np.ndarray, hit: np.ndarray, limits: np.ndarray, counts: np.ndarray) -> None:
    """Count the hits among the first detections of each class in each image.

    labels: i64 [N]. ranks: i64 [N], among those of its class and image. hit: u64 [N], B bits. limits: i64 [D].
    counts: i64 [B, K, D], zero before.
    """
    for row in range(len(hit)):
        if hit[row]:
            for bit in range(counts.shape[0]):
                if (hit[row] >> np.uint64(bit)) & np.uint64(1):
                    for place in range(len(limits)):
                        counts[bit, labels[row], place] += ranks[row] < limits[place]
