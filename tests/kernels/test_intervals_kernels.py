"""Intervals of masks against whole masks, and against pycocotools to the last bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from refexp.kernels.intervals import decode, sharing
from refexp.masks import areas, boxes_xywh, encode

GUARD = -7
"""A value in places that a kernel may not write."""


@st.composite
def some_masks(draw) -> np.ndarray:
    """Masks bool [M, H, W] of odd sizes: empty, full, of one pixel, in a stripe, or random pixels."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    masks = np.zeros((draw(st.integers(1, 6)), height, width), dtype=bool)
    for mask in masks:
        kind = draw(st.sampled_from(["empty", "full", "pixel", "stripe", "random"]))
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        if kind == "random":
            random = np.random.default_rng(draw(st.integers(0, 999)))
            mask[:] = random.random(mask.shape) < draw(st.floats(0, 1))
        elif kind == "pixel":
            mask[y, x] = True
        else:
            mask[{"empty": slice(0), "full": slice(None), "stripe": slice(y, y + 2)}[kind]] = True
    return masks


class Decoded:
    """What `decode` writes, with guards behind it."""

    def __init__(self, codes: list[bytes], height: int, pixels: int, kernel=decode) -> None:
        joined = b"".join(codes)
        self.places = len(joined) // 2
        self.start, self.end = np.full((2, self.places + 4), GUARD, dtype=np.int32)
        self.stop, self.area = np.zeros((2, len(codes)), dtype=np.int64)
        self.box = np.zeros((len(codes), 4), dtype=np.int32)
        ends = np.cumsum([len(code) for code in codes])
        self.arguments = (height, pixels, 0, self.stop, self.start, self.end, self.area, self.box)
        self.valid = kernel(np.frombuffer(joined, dtype=np.uint8), ends, *self.arguments)

    def intervals(self, row: int) -> list[tuple[int, int]]:
        part = slice(self.stop[row - 1] if row else 0, self.stop[row])
        return list(zip(self.start[part].tolist(), self.end[part].tolist(), strict=True))


def plain_intervals(code: bytes, pixels: int) -> list[tuple[int, int]] | None:
    """The intervals of a code, read as COCO's documentation describes it. None if it is invalid."""
    numbers: list[int] = []
    number = digits = 0
    for character in code:
        if not 48 <= character < 48 + 64 or digits == 7:
            return None
        value = character - 48
        number += (value & 31) << 5 * digits
        digits += 1
        if not value & 32:
            if value & 16:
                number -= 1 << 5 * digits
            numbers.append(number + (numbers[-2] if len(numbers) > 2 else 0))
            number = digits = 0
    if digits or any(run < 0 for run in numbers) or sum(numbers) > pixels:
        return None
    bounds = [0, *itertools.accumulate(numbers)]
    return [(a, b) for a, b in zip(bounds[1::2], bounds[2::2], strict=False) if a < b]


@settings(deadline=None)
@given(some_masks())
def test_intervals_areas_and_boxes(masks):
    rles = encode(masks)
    found = Decoded([rle["counts"] for rle in rles], masks.shape[1], masks[0].size)
    assert found.valid == len(masks)
    for row, mask in enumerate(masks):
        again = np.zeros(mask.size, dtype=bool)
        for start, end in found.intervals(row):
            again[start:end] = True
        assert np.array_equal(again.reshape(mask.T.shape).T, mask)
        assert found.intervals(row) == sorted(found.intervals(row))
    np.testing.assert_array_equal(found.area, areas(rles))
    boxes = boxes_xywh(rles)
    np.testing.assert_array_equal(found.box, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))


@settings(deadline=None)
@given(some_masks(), st.data())
def test_pixels_in_both_masks(masks, data):
    """Within each group, in one call or after others, and also of a mask with itself."""
    found = Decoded([rle["counts"] for rle in encode(masks)], masks.shape[1], masks[0].size)
    known = np.full(len(masks) * (len(masks) + 1) // 2, -1, dtype=np.int32)
    for _ in range(2):
        rows = np.array(data.draw(st.lists(st.integers(0, len(masks) - 1), max_size=8)), dtype=np.int64)
        cut = data.draw(st.integers(0, len(rows)))
        low, high, pixels = sharing(
            rows, np.array([0, cut, len(rows)]), found.stop, found.start, found.end, found.box, known
        )
        expected = []
        for i, j in itertools.product(range(len(rows)), repeat=2):
            if j < i and (i < cut) == (j < cut) and (count := (masks[rows[i]] & masks[rows[j]]).sum()):
                expected.append((i, j, count))
        assert list(zip(low.tolist(), high.tolist(), pixels.tolist(), strict=True)) == expected


def test_many_pairs_of_large_masks():
    """More pairs than the first arrays hold, and runs of several characters. Shares of pixels are pycocotools' bits."""
    random = np.random.default_rng(0)
    y, x = np.indices((301, 203))
    centre, radius = random.uniform(0, 300, (40, 2, 1, 1)), random.uniform(2, 150, (40, 1, 1))
    rles = encode((y - centre[:, 0]) ** 2 + (x - centre[:, 1] * 0.7) ** 2 < radius**2)
    found = Decoded([rle["counts"] for rle in rles], 301, 301 * 203)
    known = np.full(820, -1, dtype=np.int32)
    low, high, pixels = sharing(
        np.arange(40), np.array([0, 40]), found.stop, found.start, found.end, found.box, known
    )  # fmt: skip
    shares, ious = np.zeros((2, 40, 40))
    shares[low, high] = pixels / found.area[low]
    ious[low, high] = pixels / (found.area[low] + found.area[high] - pixels)
    np.testing.assert_array_equal(shares, np.tril(coco_mask.iou(rles, rles, [1] * 40), -1))
    np.testing.assert_array_equal(ious, np.tril(coco_mask.iou(rles, rles, [0] * 40), -1))
    assert len(low) > 512


@settings(deadline=None, max_examples=300)
@given(
    st.one_of(st.binary(max_size=30), st.text(st.characters(min_codepoint=48, max_codepoint=111)).map(str.encode)),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_codes_of_any_bytes(code, height, width):
    """Invalid codes are refused, and nothing is written outside the arrays. Python's own loop checks each place."""
    expected = plain_intervals(code, height * width)
    for kernel in (decode, decode.py_func):
        found = Decoded([b"01", code, b"0"], height, height * width, kernel)
        assert found.valid == (3 if expected is not None else 1)
        assert expected is None or found.intervals(1) == expected
        assert (found.start[found.places :] == GUARD).all() and (found.end[found.places :] == GUARD).all()


@pytest.mark.parametrize("code", [b"\x00", b"\xff", b"P", b"PPPPPPP0", b"1@", b"=", b"3:", b"00000@"])
def test_broken_codes(code):
    """Characters that no code has, cut off, too long, negative, or more pixels than the 12 of the image."""
    assert plain_intervals(code, 12) is None
    assert Decoded([code], 3, 12).valid == 0


def test_a_code_cut_off_is_invalid():
    (rle,) = encode(np.random.default_rng(0).random((1, 300, 300)) < 0.01)
    code = rle["counts"]
    cut = [at for at in range(1, len(code)) if (code[at - 1] - 48) & 32]  # in the middle of a number
    assert len(cut) > 100
    for at in cut:
        assert Decoded([code[:at]], 300, 300 * 300).valid == 0


def test_more_masks_follow_those_that_are_there():
    masks = np.random.default_rng(0).random((4, 7, 9)) < 0.5
    codes = [rle["counts"] for rle in encode(masks)]
    whole, parts = Decoded(codes, 7, 63), Decoded(codes, 7, 63)
    for array in (parts.stop[2:], parts.area[2:], parts.box[2:], parts.start[parts.stop[1] :]):
        array[:] = GUARD
    rest = b"".join(codes[2:])
    ends = np.cumsum([len(code) for code in codes[2:]])
    arguments = (7, 63, 2, parts.stop, parts.start, parts.end, parts.area, parts.box)
    assert decode(np.frombuffer(rest, dtype=np.uint8), ends, *arguments) == 2
    for name in ("stop", "area", "box"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert [parts.intervals(row) for row in range(4)] == [whole.intervals(row) for row in range(4)]
