"""The average precision of single images, against a plain version and pair by pair."""

from __future__ import annotations

import numpy as np
import pytest

from refexp.evaluation.matches import IOUS, RECALLS, Matches, precision_by_image
from refexp.kernels.image_precision import image_precision


def average_precision(hit: np.ndarray, ignored: np.ndarray, instances: int) -> np.ndarray:
    """COCO's average precision, f64 [10]. hit, ignored: bool [N, 10], highest score first."""
    right, wrong = hit.cumsum(axis=0), (~hit & ~ignored).cumsum(axis=0)
    precision = right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(RECALLS, np.arange(instances + 1) / instances, side="right")
    reached[0] = 0
    return (np.diff(reached)[right - 1] * envelope * hit).sum(axis=0) / len(RECALLS)


def drawn(rng: np.random.Generator, count: int, instances: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits, at most one for each instance, and ignored ones, bool [count, 10]."""
    hit = rng.random((count, len(IOUS))) < rng.random()
    hit &= hit.cumsum(axis=0) <= instances
    return hit, ~hit & (rng.random(hit.shape) < 0.2)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_the_plain_one(seed):
    rng = np.random.default_rng(seed)
    counts, instances = rng.integers(0, 40, 30), rng.integers(1, 25, 30)
    parts = [drawn(rng, *pair) for pair in zip(counts, instances, strict=True)]
    hit, ignored = (np.concatenate(side) for side in zip(*parts, strict=True))
    ends, found = counts.cumsum(), np.zeros((30, len(IOUS)))
    image_precision(ends - counts, ends, instances, hit, ignored, RECALLS, found)
    assert np.array_equal(
        found, [average_precision(*part, n) for part, n in zip(parts, instances.tolist(), strict=True)]
    )


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_those_with_instances_in_their_order(seed):
    rng = np.random.default_rng(seed)
    pairs = [(image, label) for image in range(8) for label in range(5)]
    true = [pair for pair in rng.permutation(pairs).tolist() for _ in range(rng.integers(0, 4))]
    instances = {pair: true.count(list(pair)) for pair in pairs}
    parts = {pair: drawn(rng, rng.integers(0, 5), instances[pair]) for pair in pairs if seed}
    rows = np.array([pair for pair, (hit, _) in parts.items() for _ in hit]).reshape(-1, 2)
    sides = zip(*parts.values(), strict=True) if parts else [[np.zeros((0, 10), bool)]] * 2
    hit, ignored = (np.concatenate(side) for side in sides)
    matches = Matches(*rows.T, np.zeros(len(rows)), hit, ignored, *np.array(true).T, np.zeros(len(true)))
    images, labels, found = precision_by_image(matches)
    expected = list(dict.fromkeys(map(tuple, true)))
    assert list(zip(images.tolist(), labels.tolist(), strict=True)) == expected
    empty = np.zeros((0, 10), bool), np.zeros((0, 10), bool)
    assert np.array_equal(found, [average_precision(*parts.get(pair, empty), instances[pair]) for pair in expected])
