"""Overlaps of boxes, in single precision as in torchvision's NMS: an overlap is on the same side of a threshold.

Boxes are f32 [4, N]: x1, y1, x2 and y2, group by group. starts: i64 [groups + 1], where each group begins, and N.
The inner loops have no branches, because a processor cannot predict which boxes meet.
"""

import numpy as np

from refexp.kernels import compiled, grown

NOTHING, SMALLEST = np.float32(0), np.finfo(np.float32).tiny
MEASURES = ("iou", "smaller", "covered")
"""What the intersection is divided by: the union, the smaller box, or the box of lower rank."""


@compiled
def both(boxes, i, j):
    """Compute the area that two boxes have in common."""
    width = min(boxes[2, i], boxes[2, j]) - max(boxes[0, i], boxes[0, j])
    height = min(boxes[3, i], boxes[3, j]) - max(boxes[1, i], boxes[1, j])
    return max(width, NOTHING) * max(height, NOTHING)


@compiled
def meeting(boxes, starts):
    """Find the pairs within each group whose intersection has an area, sorted by low, then by high.

    Returns two boxes of a group, low and high, each i32 [P], high before low; and the area, f32 [P].
    """
    low, high, area = np.empty(1024, np.int32), np.empty(1024, np.int32), np.empty(1024, np.float32)
    found = 0
    for group in range(len(starts) - 1):
        for one in range(starts[group], starts[group + 1]):
            while found + one - starts[group] > len(low):
                low, high, area = grown(low), grown(high), grown(area)
            for other in range(starts[group], one):
                low[found], high[found], area[found] = one, other, both(boxes, one, other)
                found += area[found] > 0
    return low[:found], high[:found], area[:found]


@compiled
def survivors(boxes, area, starts, threshold, measure):
    """Decide greedily which boxes stay, bool [N]. Each group is in rank order, the best first.

    A box drops each later one of its group that overlaps it by more than `threshold`, if it stays itself.
    area: f32 [N]. measure: place in MEASURES.
    """
    stays = np.ones(len(area), np.bool_)
    for group in range(len(starts) - 1):
        for one in range(starts[group], starts[group + 1]):
            if stays[one]:
                for other in range(one + 1, starts[group + 1]):
                    common, whole = both(boxes, one, other), area[other]
                    if measure == 0:
                        whole = whole + area[one] - common
                    elif measure == 1:
                        whole = min(whole, area[one])
                    # Where there is no area to divide by, there is no intersection either.
                    stays[other] &= np.float64(common / max(whole, SMALLEST)) <= threshold
    return stays
