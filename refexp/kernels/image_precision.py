"""COCO's average precision of each class in each image."""

from __future__ import annotations

import numpy as np

from refexp.kernels import compiled


@compiled
def image_precision(
    starts: np.ndarray,
    ends: np.ndarray,
    instances: np.ndarray,
    hit: np.ndarray,
    ignored: np.ndarray,
    recalls: np.ndarray,
    found: np.ndarray,
) -> None:
    """Compute the mean of the precision envelope at the recalls, for each pair of an image and a class.

    starts, ends: i64 [P], the detections of each pair. instances: i64 [P], at least 1. hit, ignored: bool [N, I],
    highest score first within a pair. recalls: f64 [R], rising. found: f64 [P, I], set here.
    """
    for pair in range(len(starts)):
        first, count, wanted = starts[pair], ends[pair] - starts[pair], instances[pair]
        reached = np.zeros(wanted + 1, dtype=np.int64)  # the number of recalls that so many hits reach
        for hits in range(1, wanted + 1):
            reached[hits] = reached[hits - 1]
            while reached[hits] < len(recalls) and recalls[reached[hits]] <= hits / wanted:
                reached[hits] += 1
        envelope, right = np.empty(count), np.empty(count, dtype=np.int64)
        for step in range(hit.shape[1]):
            hits, false, total = 0, 0, 0.0
            for row in range(count):
                hits += hit[first + row, step]
                false += not hit[first + row, step] and not ignored[first + row, step]
                right[row], envelope[row] = hits, hits / max(hits + false, 1)
            for row in range(count - 1, 0, -1):
                envelope[row - 1] = max(envelope[row - 1], envelope[row])
            for row in range(count):
                if hit[first + row, step]:
                    total += (reached[right[row]] - reached[right[row] - 1]) * envelope[row]
            found[pair, step] = total / len(recalls)
