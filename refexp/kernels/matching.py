"""COCO's greedy matching of detections and instances in one image, at several IoUs and area ranges together."""

from __future__ import annotations

import numpy as np

from refexp.kernels import compiled


@compiled
def grouped(labels: np.ndarray, ranked: np.ndarray, classes: int, most: int) -> np.ndarray:
    """Order detections class by class, as the classes first occur, best first, and at most `most` of a class.

    labels: i64 [N], below `classes`. ranked: i64 [N], the detections by falling score. Returns their rows, i64 [n].
    """
    place = np.full(classes, -1, dtype=np.int64)
    count = np.zeros(classes, dtype=np.int64)
    seen = 0
    for label in labels:
        if place[label] < 0:
            place[label] = seen
            seen += 1
        if count[place[label]] < most:
            count[place[label]] += 1
    free = np.zeros(classes + 1, dtype=np.int64)
    free[1:] = np.cumsum(count)
    end = free[1:].copy()
    rows = np.empty(free[classes], dtype=np.int64)
    for row in ranked:
        at = place[labels[row]]
        if free[at] < end[at]:
            rows[free[at]] = row
            free[at] += 1
    return rows


@compiled
def match(
    ious: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    true_labels: np.ndarray,
    crowd: np.ndarray,
    aside: np.ndarray,
    thresholds: np.ndarray,
    hit: np.ndarray,
    ignored: np.ndarray,
    taken: np.ndarray,
) -> None:
    """Match each detection to the free instance of its class with the highest IoU; of equals, to the last.

    An instance that is set aside is taken only if no other fits, and its detection is ignored. A crowd stays free.

    ious: f64 [P, M, T], one matrix for each of P measures. rows: i64 [N], the row of each detection. labels: i64 [N],
    the detections of a class next to each other, best first. true_labels: i64 [T]. crowd: bool [T]. aside: bool
    [P, A, T], in each of A area ranges. thresholds: f64 [I], the IoUs.
    hit, ignored: u64 [P, N], bits `area * I + threshold`. Set here: hit is zero before, and ignored says which
    detections are ignored where they match nothing. taken: i32 [P, T], the detection that matches each instance at the
    first IoU in the first area range; -1 before.
    """
    measures, areas, instances = aside.shape
    same = np.empty(instances, dtype=np.int64)
    ordered = np.empty(instances, dtype=np.int64)
    used = np.empty(instances, dtype=np.bool_)
    start = 0
    while start < len(labels):
        end = start + 1
        while end < len(labels) and labels[end] == labels[start]:
            end += 1
        count = 0
        for one in range(instances):
            if true_labels[one] == labels[start]:
                same[count] = one
                count += 1
        for p in range(measures if count else 0):
            for area in range(areas):
                at = 0
                for late in (False, True):
                    for g in range(count):
                        if aside[p, area, same[g]] == late:
                            ordered[at] = same[g]
                            at += 1
                for step in range(len(thresholds)):
                    bit = np.uint64(1) << np.uint64(area * len(thresholds) + step)
                    used[:count] = False
                    for row in range(start, end):
                        best = -1
                        highest = thresholds[step]
                        for g in range(count):
                            one = ordered[g]
                            if ious[p, rows[row], one] < highest or (used[g] and not crowd[one]):
                                continue
                            if best >= 0 and aside[p, area, one] and not aside[p, area, ordered[best]]:
                                break
                            best = g
                            highest = ious[p, rows[row], one]
                        if best < 0:
                            continue
                        used[best] = True
                        if aside[p, area, ordered[best]]:
                            ignored[p, row] |= bit
                            continue
                        hit[p, row] |= bit
                        ignored[p, row] &= ~bit
                        if area == 0 and step == 0:
                            taken[p, ordered[best]] = row
        start = end
