"""Cosines of pairs of rows, each computed by itself.

In a matrix product, the last digits of a pair depend on the number of rows and threads. Here they do not.
"""

import math

import numpy as np

from refexp.kernels import compiled

LANES = 64
"""Sums that grow side by side, so that the processor adds several at once. Channel c adds to sum c % 64."""
NO_LENGTH = 1e-12
"""Rows shorter than this are not brought to length 1, as in torch.nn.functional.normalize."""


@compiled
def dot(a, b, sums):
    """Multiply two rows, f32 [C]. sums: f64 [64], overwritten."""
    count = len(a)
    whole = count - count % LANES
    for lane in range(LANES):
        sums[lane] = 0.0
    for first in range(0, whole, LANES):
        x, y = a[first : first + LANES], b[first : first + LANES]
        for lane in range(LANES):
            sums[lane] += np.float64(x[lane]) * np.float64(y[lane])
    for c in range(whole, count):
        sums[c - whole] += np.float64(a[c]) * np.float64(b[c])
    half = LANES // 2
    while half:
        for lane in range(half):
            sums[lane] += sums[lane + half]
        half //= 2
    return sums[0]


@compiled
def cosines(features, one, other, at, length, known):
    """Fill in a table of cosines where it is NaN.

    features: f32 [M, C]. one, other: i64 [P], two rows. at: i64 [P], the place of the pair in the table `known`, f64.
    length: f64 [M], the lengths of the rows, filled in where they are NaN.
    """
    sums = np.empty(LANES)
    for p in range(len(at)):
        if np.isnan(known[at[p]]):
            for row in (one[p], other[p]):
                if np.isnan(length[row]):
                    length[row] = max(math.sqrt(dot(features[row], features[row], sums)), NO_LENGTH)
            known[at[p]] = dot(features[one[p]], features[other[p]], sums) / (length[one[p]] * length[other[p]])
