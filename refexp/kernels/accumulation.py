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
    recall: np.ndarray,
    score: np.ndarray,
) -> None:
    """Compute the precision and the score at given recalls, and the recall of all detections.

    starts: i64 [K + 1], the detections of each class. hit, ignored: u64 [N], bits `area * I + threshold`, the classes
    one after another, best first. scores: f64 [N]. instances: i64 [K, A], those that count. recalls: f64 [R], rising.
    precision, score: f64 [I, R, K, A]. recall: f64 [I, K, A]. Set here, apart from classes and areas where no instance
    counts.
    """
    thresholds, _, classes, areas = precision.shape
    most = 0
    for label in range(classes):
        most = max(most, starts[label + 1] - starts[label])
    envelope = np.empty(most)
    reached = np.empty(most)
    for label in range(classes):
        start, end = starts[label], starts[label + 1]
        for area in range(areas):
            wanted = instances[label, area]
            if wanted == 0:
                continue
            for step in range(thresholds):
                bit = np.uint64(1) << np.uint64(area * thresholds + step)
                hits = 0
                false = 0
                # Precision and recall change to the better only at hits, so COCO's curves are computed only there.
                for row in range(start, end):
                    if hit[row] & bit:
                        hits += 1
                        envelope[hits - 1] = hits / (np.float64(false + hits) + 2.220446049250313e-16)
                        reached[hits - 1] = scores[row]
                    elif not ignored[row] & bit:
                        false += 1
                recall[step, label, area] = hits / wanted
                for at in range(hits - 1, 0, -1):
                    envelope[at - 1] = max(envelope[at - 1], envelope[at])
                at = 0
                for place in range(len(recalls)):
                    while at < hits and (at + 1) / wanted < recalls[place]:
                        at += 1
                    if at < hits:
                        precision[step, place, label, area] = envelope[at]
                        score[step, place, label, area] = reached[at]
                    else:
                        precision[step, place, label, area] = 0.0
                        score[step, place, label, area] = 0.0
                    if recalls[place] <= 0 and end > start:  # reached before the first hit
                        score[step, place, label, area] = scores[start]
