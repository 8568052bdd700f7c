"""METHOD 3 and 4 against the published implementation's numbers (see tests/golden/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairs import coverage, likeness

from refexp.masks import areas, boxes_xywh, low_res_boxes, upscale_to_rle
from refexp.matchers.prototype import PrototypeMatcher
from refexp.method.memory import build_bank, instance_prototype
from refexp.method.pooling import pool_masks
from refexp.postprocess.steps import ClassNMS, SoftMerge, TopK
from refexp.types import Proposals


@pytest.fixture(scope="module")
def gold(golden):
    return golden("matching")


@pytest.fixture(scope="module")
def bank(gold):
    feats, weights = torch.from_numpy(gold["mem_feats"]).float(), torch.from_numpy(gold["mem_masks"])
    return build_bank(
        torch.stack([instance_prototype(f, w) for f, w in zip(*shot_pair, strict=True)])
        for shot_pair in zip(feats, weights, strict=True)
    )


@pytest.fixture(scope="module")
def non_empty(gold):
    """Rows of the proposals that refexp keeps: it leaves empty masks out from the start."""
    return np.flatnonzero((gold["lr_logits"] > 0).any(axis=(1, 2)))


@pytest.fixture(scope="module")
def proposals(gold, non_empty):
    logits = torch.from_numpy(gold["lr_logits"][non_empty]).float()
    masks_lr = logits > 0
    return Proposals(
        quality=torch.from_numpy(gold["pred_ious"][non_empty]),
        boxes_lr=low_res_boxes(masks_lr),
        features=pool_masks(masks_lr, torch.from_numpy(gold["target_feat"]).float()),
        masks=upscale_to_rle(logits, tuple(gold["ori_hw"].tolist())),
        size=tuple(gold["ori_hw"].tolist()),
    )


def test_prototypes(gold, bank):
    np.testing.assert_allclose(torch.stack(bank.instances), gold["mem_feats_ins_avg"], atol=1e-5)
    np.testing.assert_allclose(bank.prototypes, gold["prototypes"], atol=1e-6)


def test_mask_features_and_boxes(gold, proposals, non_empty):
    np.testing.assert_allclose(proposals.features, gold["obj_feats"][non_empty], atol=1e-6)
    np.testing.assert_array_equal(proposals.boxes_lr, gold["lr_boxes"][non_empty])


def test_matching(gold, bank, proposals, non_empty):
    candidates = PrototypeMatcher().match(proposals, bank)
    np.testing.assert_array_equal(candidates.labels, gold["labels"][non_empty])
    np.testing.assert_allclose(candidates.scores, gold["scores_before_nms"][non_empty], atol=1e-6)


def test_nms(gold, bank, proposals, non_empty):
    kept = ClassNMS(keep=800)(PrototypeMatcher().match(proposals, bank), proposals)
    expected = [i for i in gold["nms_keep"] if gold["scores_before_nms"][i] > 0]
    np.testing.assert_array_equal(non_empty[kept.index], expected)


def test_soft_merge(gold, bank, proposals, non_empty):
    kept = ClassNMS()(PrototypeMatcher().match(proposals, bank), proposals)
    merged = SoftMerge()(kept, proposals)
    np.testing.assert_array_equal(non_empty[merged.index], gold["merge_inds"])
    np.testing.assert_array_equal(areas([proposals.masks[i] for i in merged.index]), gold["merge_areas"])
    np.testing.assert_allclose(merged.scores, gold["scores_after_merge"], atol=2e-6)
    overlap = coverage(proposals, kept.index) * likeness(proposals, kept.index)
    same_class = kept.labels[:, None] == kept.labels
    worst = (overlap * same_class).tril(diagonal=-1).amax(dim=1)
    np.testing.assert_allclose(worst, gold["ios"], atol=1e-6)


@pytest.mark.parametrize("k", [100, 10])
def test_detections(gold, bank, proposals, non_empty, k):
    candidates = PrototypeMatcher().match(proposals, bank)
    for step in (ClassNMS(keep=8 * k), SoftMerge(), TopK(k)):
        candidates = step(candidates, proposals)
    np.testing.assert_array_equal(non_empty[candidates.index], gold[f"k{k}_inds"])
    np.testing.assert_array_equal(candidates.labels, gold[f"k{k}_labels"])
    np.testing.assert_allclose(candidates.scores, gold[f"k{k}_scores"], atol=2e-6)
    masks = [proposals.masks[i] for i in candidates.index]
    np.testing.assert_array_equal(areas(masks), gold[f"k{k}_areas"])
    xywh = boxes_xywh(masks)
    # The published boxes end on their last pixel, COCO's one past it.
    np.testing.assert_array_equal(np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:] - 1]), gold[f"k{k}_boxes_xyxy"])
