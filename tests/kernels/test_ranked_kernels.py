"""What candidates in rank order do to each other, against plain loops over whole matrices, to the last bit."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from refexp.kernels.ranked import decayed, diffused, survivors

groups = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def drawn(counts: list[int], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]:
    """Where groups start, and some pairs within them, sorted by low, then by high."""
    random = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(counts)), counts)
    chosen = np.tril(np.equal.outer(group, group) & (random.random((len(group), len(group))) < random.random()), -1)
    low, high = (places.astype(np.int32) for places in chosen.nonzero())
    return np.cumsum([0, *counts]), low, high, random


@settings(deadline=None)
@given(groups, st.integers(0, 999))
def test_survivors(counts, seed):
    _, low, high, _ = drawn(counts, seed)
    kept: set[int] = set()
    for i in range(sum(counts)):
        if not kept & set(high[low == i].tolist()):
            kept.add(i)
    assert np.flatnonzero(survivors(sum(counts), low, high)).tolist() == sorted(kept)


@settings(deadline=None)
@given(groups, st.integers(0, 999))
def test_decay(counts, seed):
    """Scores of few values, so that many tie: the first is the best."""
    starts, low, high, random = drawn(counts, seed)
    count = sum(counts)
    scores, of_low, of_high = random.integers(0, 4, count) / 4, random.random(len(low)), random.random(len(low))
    factors = np.ones((count, count))
    factors[low, high], factors[high, low] = of_low, of_high
    expected, given_scores = scores.copy(), scores.copy()
    for first, last in itertools.pairwise(starts):
        waiting = list(range(first, last))
        while waiting:
            best = max(waiting, key=expected.__getitem__)
            waiting.remove(best)
            expected[waiting] *= factors[waiting, best]
    np.testing.assert_array_equal(decayed(scores, starts, low, high, of_low, of_high), expected)
    np.testing.assert_array_equal(scores, given_scores)


@settings(deadline=None)
@given(groups, st.integers(0, 999), st.sampled_from([0, 0.3, 1]), st.integers(1, 30), st.sampled_from([1e-6, 0.1]))
def test_diffusion(counts, seed, alpha, iterations, close):
    """Each group ends by itself."""
    starts, low, high, random = drawn(counts, seed)
    values, direct = random.random(len(low)), random.random(sum(counts))
    weights = np.zeros((sum(counts), sum(counts)))
    weights[low, high] = values
    expected = np.zeros(sum(counts))
    for first, last in itertools.pairwise(starts):
        p = np.full(last - first, 1 / max(1, last - first))
        for _ in range(iterations):
            before = p
            sums = [sum(w * q for w, q in zip(row, p, strict=True)) for row in weights[first:last, first:last]]
            p = alpha * np.array(sums) + (1 - alpha) * direct[first:last]
            if (np.abs(p - before) < close).all():
                break
        expected[first:last] = p
    np.testing.assert_array_equal(diffused(starts, low, high, values, direct, alpha, iterations, close), expected)
