"""Masks: codes, areas, boxes, the two resolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refexp import masks as of_masks
from refexp.masks import (
    areas,
    boxes_xywh,
    decode,
    decode_inside,
    encode,
    encode_positive,
    in_both,
    low_res_boxes,
    rles_to_low_res,
    to_low_res,
    upscale_to_rle,
)  # fmt: skip
from refexp.method.pooling import pool_masks, upsampling_matrix
from refexp.run_lengths import run_length_codes


def test_codes_come_back():
    masks = np.random.default_rng(0).random((4, 13, 17)) > 0.5
    np.testing.assert_array_equal(decode(encode(masks)), masks)


def test_areas_of_more_masks_than_fit_a_byte():
    masks = np.zeros((300, 8, 8), dtype=bool)
    masks[np.arange(300), 0, 0] = True
    np.testing.assert_array_equal(areas(encode(masks)), np.ones(300))
    assert areas([]).shape == (0,)


def test_low_resolution_boxes():
    masks = torch.zeros(3, 256, 256, dtype=torch.bool)
    masks[0, 10:20, 30:50] = True
    masks[1, 255, 0] = True
    assert low_res_boxes(masks).tolist() == [[30, 10, 49, 19], [0, 255, 0, 255], [0, 0, 0, 0]]
    assert low_res_boxes(masks[:0]).shape == (0, 4)


@pytest.mark.parametrize("size", [(300, 500), (90, 120)])
def test_upscaling_keeps_the_shape(size):
    logits = torch.full((2, 256, 256), -1.0)
    logits[0, 64:192, :128] = 1
    left, nothing = decode(upscale_to_rle(logits, size))
    assert left.shape == size
    assert left.mean() == pytest.approx(0.25, abs=0.02)
    assert not nothing.any()


def test_no_mask_vanishes_at_low_resolution():
    masks = np.zeros((2, 600, 800), dtype=bool)
    masks[0, 300, 400] = True  # one pixel, a tenth of a low-resolution one
    masks[1, 100:300, 100:500] = True
    small = to_low_res(masks)
    assert small[0].sum() == 1
    assert small[1].float().mean() == pytest.approx(masks[1].mean(), abs=0.005)
    assert boxes_xywh(encode(masks))[1].tolist() == [100, 100, 400, 200]


def test_many_masks_are_never_decoded_together(monkeypatch):
    masks = np.random.default_rng(0).random((7, 300, 500)) > 0.6
    expected, decoded = to_low_res(masks), []
    monkeypatch.setitem(of_masks.AT_ONCE, "cpu", (32, 2 * 300 * 500))
    monkeypatch.setattr(of_masks, "decode", lambda rles: decoded.append(len(rles)) or decode(rles))
    assert torch.equal(rles_to_low_res(encode(masks)), expected)
    assert decoded == [2, 2, 2, 1]
    assert torch.equal(to_low_res(masks), expected)
    assert to_low_res(masks[:0]).shape == (0, 256, 256)


def test_a_mask_is_its_inside_and_nothing_else():
    masks = np.zeros((3, 40, 60), dtype=bool)
    masks[0, 10:15, 20:50:2] = masks[1, 39, 59] = True
    for mask, rle in zip(masks, encode(masks), strict=True):
        inside, place = decode_inside(rle)
        again = np.zeros_like(mask)
        again[place] = inside
        assert (again == mask).all() and inside.size <= 5 * 30


def test_pooling_is_the_mean_of_the_upsampled_map():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(37 * 37, 9, generator=generator)
    masks = torch.rand(5, 256, 256, generator=generator) > 0.7
    up = torch.nn.functional.interpolate(
        tokens.T.reshape(1, 9, 37, 37), size=(256, 256), mode="bilinear", align_corners=False
    )[0]
    plain = torch.stack([up[:, mask].mean(dim=1) for mask in masks])
    torch.testing.assert_close(
        pool_masks(masks, tokens), torch.nn.functional.normalize(plain, dim=1), atol=2e-6, rtol=0
    )
    torch.testing.assert_close(upsampling_matrix(37, torch.device("cpu")).sum(dim=1), torch.ones(256))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (255, 3), (256, 5), (257, 3), (64, 33), (427, 640)])
def test_run_lengths_of_tensors_are_those_of_pycocotools(size):
    generator = torch.Generator().manual_seed(sum(size))
    odd = torch.arange(size[0])[:, None] + torch.arange(size[1]) & 1 == 1
    one = torch.zeros(size, dtype=torch.bool)
    one[-1, -1] = True
    noise = [torch.rand(size, generator=generator) < share for share in (0.01, 0.3, 0.5, 0.99)]
    masks = torch.stack([torch.zeros_like(odd), torch.ones_like(odd), odd, ~odd, one, ~one, *noise])
    assert run_length_codes(masks) == [rle["counts"] for rle in encode(masks.numpy())]
    assert run_length_codes(masks[:0]) == []


def test_ten_thousand_masks_of_odd_sizes_are_coded_as_by_pycocotools():
    """Random, empty, full, one-pixel and checkerboard masks, of heights below and above 256."""
    generator = torch.Generator().manual_seed(5)
    sizes = [(h, w) for h in (1, 3, 17, 255, 257, 301) for w in (1, 2, 31, 63)] + [(511, 5)]
    for height, width in sizes:
        logits = torch.randn(400, height, width, generator=generator) + torch.linspace(-4, 4, 400)[:, None, None]
        logits[0], logits[1], logits[2] = -1, 1, 0
        logits[3], logits[4] = -1, 1
        logits[3, height // 2, width // 2], logits[4, -1, 0] = 1, -1
        logits[5] = (torch.arange(height)[:, None] + torch.arange(width)) % 2 - 0.5
        expected = encode((logits > 0).numpy())
        assert encode_positive(logits) == expected
        assert run_length_codes(logits > 0) == [rle["counts"] for rle in expected]


def test_a_mask_must_have_a_pixel_in_both_sizes():
    low = torch.zeros(4, 256, 256, dtype=torch.bool)
    full = np.zeros((4, 300, 7), dtype=bool)
    low[1:3, 0, 0], full[2:, 299, 6] = True, True
    assert in_both(low, encode(full)) == [2]
    assert in_both(low[:0], []) == []
