"""Cosines of pairs against the same sum as a plain loop, to the last bit, and against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from refexp.kernels.cosines import cosines

CHANNELS = [1, 2, 63, 64, 65, 128, 200, 384, 1024]


def plain_dot(a: np.ndarray, b: np.ndarray) -> float:
    """Channel c adds to sum c % 64; then the second half of the sums adds to the first, until one is left."""
    sums = [0.0] * 64
    for c, (x, y) in enumerate(zip(a.tolist(), b.tolist(), strict=True)):
        sums[c % 64] += x * y
    while len(sums) > 1:
        half = len(sums) // 2
        sums = [one + other for one, other in zip(sums[:half], sums[half:], strict=True)]
    return sums[0]


def features_of(channels: int, count: int = 12) -> np.ndarray:
    """Features f32 [M, C], of which one is 0 and two are the same."""
    features = np.random.default_rng(channels).normal(size=(count, channels)).astype(np.float32)
    features[0], features[1] = 0, features[2]
    return features


def cosines_of(features: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """All pairs with one call."""
    one, other = np.array(pairs).T.copy()
    known, length = np.full(len(pairs), np.nan), np.full(len(features), np.nan)
    cosines(features, one, other, np.arange(len(pairs)), length, known)
    return known


@pytest.mark.parametrize("channels", CHANNELS)
def test_the_sum_is_one_fixed_sum(channels):
    features = features_of(channels)
    length = [max(math.sqrt(plain_dot(row, row)), 1e-12) for row in features]
    pairs = [(i, j) for i in range(12) for j in range(12)]
    expected = [plain_dot(features[i], features[j]) / (length[i] * length[j]) for i, j in pairs]
    assert cosines_of(features, pairs).tolist() == expected


@pytest.mark.parametrize("channels", CHANNELS)
def test_cosines(channels):
    features = features_of(channels)
    exact = features[1:].astype(np.longdouble)
    exact /= np.sqrt((exact**2).sum(axis=1, keepdims=True))
    found = cosines_of(features, [(i, j) for i in range(1, 12) for j in range(1, 12)])
    np.testing.assert_allclose(found.reshape(11, 11), (exact @ exact.T).astype(np.float64), rtol=0, atol=1e-15)
    assert cosines_of(features, [(0, 0), (0, 3), (5, 0)]).tolist() == [0, 0, 0]


def test_a_pair_has_the_same_bits_alone():
    features = features_of(1024, 40)
    pairs = [(i, j) for i in range(40) for j in range(i)]
    together = cosines_of(features, pairs)
    assert together.tolist() == [cosines_of(features, [(j, i)])[0] for i, j in pairs]


def test_what_is_known_stays():
    known, length = np.array([0.25, np.nan]), np.full(12, np.nan)
    cosines(features_of(64), np.array([3, 4]), np.array([4, 5]), np.arange(2), length, known)
    assert known[0] == 0.25 and not np.isnan(known[1])
    assert np.flatnonzero(~np.isnan(length)).tolist() == [4, 5]
