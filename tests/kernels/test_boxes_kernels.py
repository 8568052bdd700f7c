"""Overlaps of boxes and their greedy suppression, against NumPy in single precision and a plain loop."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refexp.kernels.boxes import MEASURES, meeting, survivors


def drawn(random: np.random.Generator, count: int, whole: bool) -> np.ndarray:
    """Boxes f32 [4, N]: whole ones of a small grid, so that overlaps tie and areas are 0, or any."""
    if whole:
        first, side = random.integers(0, 12, (2, count)), random.integers(0, 8, (2, count))
    else:
        first, side = random.uniform(0, 200, (2, count)), random.exponential(50, (2, count))
    return np.vstack([first, first + side]).astype(np.float32)


def common(boxes: np.ndarray) -> np.ndarray:
    """The area of each intersection, f32 [N, N]."""
    x1, y1, x2, y2 = boxes
    width, height = (
        np.minimum.outer(last, last) - np.maximum.outer(first, first) for first, last in ((x1, x2), (y1, y2))
    )
    return np.maximum(width, 0) * np.maximum(height, 0)


def area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[2] - boxes[0]) * (boxes[3] - boxes[1])


def overlap(boxes: np.ndarray, measure: str) -> np.ndarray:
    """The overlap of box i (row) with box j, of which j ranks higher, f32 [N, N]."""
    size, both = area(boxes), common(boxes)
    whole = {
        "iou": size[:, None] + size - both,
        "smaller": np.minimum.outer(size, size),
        "covered": np.broadcast_to(size[:, None], both.shape),
    }[measure]
    return np.divide(both, whole, out=np.zeros_like(both), where=both > 0)


def plain_survivors(overlaps: np.ndarray, threshold: float) -> np.ndarray:
    kept: list[int] = []
    for i in range(len(overlaps)):
        if all(overlaps[i, j] <= threshold for j in kept):
            kept.append(i)
    return np.isin(np.arange(len(overlaps)), kept)


groups = st.lists(st.integers(0, 12), min_size=1, max_size=6)


@settings(deadline=None)
@given(groups, st.booleans(), st.integers(0, 999), st.sampled_from(MEASURES), st.sampled_from([0, 0.3, 0.5, 2 / 3, 1]))
def test_greedy_suppression(counts, whole, seed, measure, threshold):
    boxes = drawn(np.random.default_rng(seed), sum(counts), whole)
    starts = np.cumsum([0, *counts])
    found = survivors(boxes, area(boxes), starts, threshold, MEASURES.index(measure))
    for first, last in itertools.pairwise(starts):
        expected = plain_survivors(overlap(boxes[:, first:last], measure).astype(np.float64), threshold)
        np.testing.assert_array_equal(found[first:last], expected)


@settings(deadline=None)
@given(groups, st.booleans(), st.integers(0, 999))
def test_boxes_that_meet(counts, whole, seed):
    boxes = drawn(np.random.default_rng(seed), sum(counts), whole)
    starts = np.cumsum([0, *counts])
    group = np.repeat(np.arange(len(counts)), counts)
    expected = np.tril(common(boxes) * np.equal.outer(group, group), -1)
    low, high, both = meeting(boxes, starts)
    np.testing.assert_array_equal(np.transpose([low, high]), np.argwhere(expected))
    np.testing.assert_array_equal(both, expected[low, high])
    assert both.dtype == np.float32


@pytest.mark.parametrize(("kernel", "count"), [(meeting, 300), (meeting.py_func, 150)])
def test_more_pairs_than_the_first_arrays_hold(kernel, count):
    """Python's own loop checks each place."""
    boxes = drawn(np.random.default_rng(0), count, False)
    low, high, both = kernel(boxes, np.array([0, count]))
    assert len(low) > 1024
    expected = np.tril(common(boxes), -1)
    np.testing.assert_array_equal(np.transpose([low, high]), np.argwhere(expected))
    np.testing.assert_array_equal(both, expected[low, high])


@pytest.mark.parametrize("measure", MEASURES)
def test_many_boxes_of_any_size(measure):
    """Thresholds that are overlaps of the boxes themselves: another rounding would change who stays."""
    boxes = drawn(np.random.default_rng(1), 400, False)
    overlaps = overlap(boxes, measure).astype(np.float64)
    values = np.sort(overlaps[np.tril(overlaps > 0.05, -1)])
    for threshold in values[:: len(values) // 40]:
        found = survivors(boxes, area(boxes), np.array([0, 400]), threshold, MEASURES.index(measure))
        np.testing.assert_array_equal(found, plain_survivors(overlaps, threshold))
