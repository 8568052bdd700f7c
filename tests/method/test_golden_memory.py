"""METHOD 1 and 2 against the published implementation's numbers (see tests/golden/README.md)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN

from refexp.data.coco import annotation_rle
from refexp.encoders.base import Encoder
from refexp.inputs.images import to_square
from refexp.masks import decode
from refexp.method.memory import crop_reference, crop_window, instance_prototype, mask_weights
from refexp.types import Weights


class PatchMean(Encoder):
    """Stand-in encoder of the golden data: each 14 x 14 patch's mean colour."""

    input_size, grid, reference_context = 518, 37, 0.2

    def provenance(self):
        return Weights(origin="none")

    def load(self, device):
        pass

    def forward(self, inputs):
        return F.avg_pool2d(inputs, 14).flatten(2).transpose(1, 2)


@pytest.fixture(scope="module")
def gold(golden):
    return golden("memory")


@pytest.fixture(scope="module")
def annotations():
    return json.loads((GOLDEN / "memory_coco.json").read_text())["annotations"]


def test_annotation_masks(gold, annotations):
    count, height, width = gold["ann_masks_shape"]
    expected = np.unpackbits(gold["ann_masks_packed"], axis=-1)[..., :width].astype(bool)
    actual = np.stack([decode([annotation_rle(a, height, width)])[0] for a in annotations])
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("row", range(10))
def test_reference(gold, annotations, row):
    box = tuple(gold["boxes_xywh"][row].tolist())
    x, y, w, h = box
    assert crop_window((x, y, x + w, y + h), 0.2, (427, 640)) == tuple(gold["crop_xyxy"][row])

    encoder = PatchMean()
    image, mask = crop_reference(gold["image"], decode([annotation_rle(annotations[row], 427, 640)])[0], box, 0.2)
    inputs = encoder.prepare(image)
    np.testing.assert_allclose(inputs[0, :, ::14, ::14], gold["encoder_input_probe"][row], atol=1e-4)

    weights = mask_weights(mask, 518, 37)
    np.testing.assert_allclose(weights, gold["mem_masks_37"][row], atol=1e-6)
    tokens = encoder.encode(image)[0]
    np.testing.assert_allclose(tokens, gold["patch_mean_feats"][row], atol=1e-4)
    np.testing.assert_allclose(instance_prototype(tokens, weights), gold["ins_avg"][row], atol=1e-5)


def test_soft_masks(gold, annotations):
    for row, expected in zip(gold["soft_mask_518_idx"], gold["soft_mask_518"], strict=True):
        box = tuple(gold["boxes_xywh"][row].tolist())
        _, mask = crop_reference(gold["image"], decode([annotation_rle(annotations[row], 427, 640)])[0], box, 0.2)
        soft = F.interpolate(mask, size=(518, 518), mode="bilinear", align_corners=False)
        np.testing.assert_allclose(soft[0, 0], expected, atol=1e-5)


def test_target_inputs(golden):
    gold = golden("target_resize")
    square = to_square(gold["image"], 1024)
    np.testing.assert_allclose(square[:, ::31, ::31], gold["sam_input_probe"], atol=1e-5)
    inputs = PatchMean().prepare(square[None])[0]
    np.testing.assert_allclose(inputs[:, ::14, ::14], gold["encoder_input_probe"], atol=1e-5)
    assert inputs.dtype == torch.float32
