"""Variants of an experiment share an image's proposals. Each gets the same bits as with proposals of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import coverage, likeness
from pycocotools import mask as coco_mask
from scenes import CLASSES, bars, every, proposals_of, scene

from refexp.errors import RefexpError
from refexp.masks import areas
from refexp.postprocess.overlap import overlapping
from refexp.postprocess.steps import NMS, ClassNMS, GraphDiffusion, SoftMerge, SoftNMS, TopK
from refexp.types import Candidates, Proposals

STEPS = [
    ClassNMS(),
    NMS(0.4, "masks", "covered"),
    NMS(0.3, "masks", "iou", within="image", rank="score"),
    SoftMerge(),
    SoftMerge(semantics=False),
    GraphDiffusion(),
    GraphDiffusion(normalise=True),
    SoftNMS(),
    SoftNMS("linear", shape="masks", measure="smaller", within="image"),
    TopK(5, "class"),
]
COUNT = 40


def draw(seed: int) -> Candidates:
    """Some of the proposals in any order, a few of them with two classes."""
    random = np.random.default_rng(seed)
    index = random.permutation(COUNT)[: random.integers(0, COUNT + 1)]
    index = np.concatenate([index, index[:5]])
    labels = random.integers(0, CLASSES, len(index))
    labels[len(index) - len(index[:5]) :] = CLASSES
    scores = random.integers(0, 30, len(index)) / 30  # some tie, some are 0
    return Candidates(torch.from_numpy(index), torch.from_numpy(labels), torch.from_numpy(scores).float())


def equal(one: Candidates, other: Candidates) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("index", "labels", "scores"))


@settings(deadline=None)
@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 999), st.sampled_from(STEPS)), min_size=2, max_size=6))
def test_what_others_asked_before_changes_no_bit(seed, variants):
    _, shared, _ = scene(seed, COUNT)
    for number, step in variants:
        assert equal(step(draw(number), shared), step(draw(number), replace(shared)))


def test_new_proposals_share_nothing():
    _, proposals, masks = scene()
    overlap = proposals.overlap
    assert overlap is proposals.overlap
    assert replace(proposals).overlap is not overlap
    both = torch.arange(2)
    halves = proposals_of(bars((0, 40), (20, 60)))
    assert coverage(halves, both)[0, 1] == 0.5
    assert coverage(replace(halves, masks=proposals_of(bars((0, 40), (0, 60))).masks), both)[0, 1] == 1


def test_shares_of_masks_are_those_of_pycocotools():
    _, proposals, _ = scene(5, COUNT)
    rles = proposals.masks
    share = coco_mask.iou(rles, rles, [1] * COUNT)
    assert torch.equal(coverage(proposals, torch.arange(COUNT)), torch.from_numpy(np.asarray(share)).float())
    order = np.random.default_rng(0).permutation(COUNT)
    candidates = every(np.ones(COUNT)).pick(torch.from_numpy(order))
    pairs = overlapping(candidates, proposals, "image", "masks")
    low, high = order[pairs.low], order[pairs.high]
    np.testing.assert_array_equal(pairs.share("iou"), np.asarray(coco_mask.iou(rles, rles, [0] * COUNT))[low, high])
    np.testing.assert_array_equal(pairs.share("covered"), share[low, high])
    np.testing.assert_array_equal(pairs.share("covered", "high"), share[high, low])
    np.testing.assert_array_equal(pairs.share("smaller"), np.maximum(share, share.T)[low, high])
    np.testing.assert_array_equal(proposals.overlap.areas(order), areas(rles)[order])


def test_the_likeness_of_a_pair_has_the_same_bits_in_any_company():
    """Also with any number of threads, which a matrix product depends on."""
    _, proposals, _ = scene(0, COUNT)
    random = torch.Generator().manual_seed(0)
    features = torch.randn(COUNT, 1024, generator=random)
    features[1:4] = features[0]
    proposals = replace(proposals, features=features)
    whole = likeness(proposals, torch.arange(COUNT))
    for index in ([3, 0], [0, 1, 2, 3], list(range(COUNT))[::-1], [7, 7, 8]):
        fresh = replace(proposals)
        assert torch.equal(likeness(fresh, torch.tensor(index)), whole[index][:, index])
        assert torch.equal(likeness(proposals, torch.tensor(index)), whole[index][:, index])
    normalised = torch.nn.functional.normalize(features.double(), dim=1)
    torch.testing.assert_close(whole, (normalised @ normalised.T).clamp(min=0), rtol=0, atol=1e-14)


def test_an_empty_mask_covers_nothing():
    masks = bars((0, 40), (0, 0), (20, 60))
    proposals = proposals_of(masks)
    expected = torch.tensor([[1, 0, 0.5], [0, 0, 0], [0.5, 0, 1]])
    assert torch.equal(coverage(proposals, torch.arange(3)), expected)
    assert torch.equal(SoftMerge()(every([1, 1, 1]), proposals).scores, torch.tensor([1, 1, 0.5]).sqrt())


def test_no_proposals():
    proposals = proposals_of(np.zeros((0, 60, 80), dtype=bool))
    nothing = every([])
    for step in STEPS:
        assert len(step(nothing, proposals)) == 0
    assert coverage(proposals, nothing.index).shape == likeness(proposals, nothing.index).shape == (0, 0)


@pytest.mark.parametrize("step", [SoftMerge(), GraphDiffusion(), NMS(shape="masks")])
def test_a_broken_mask_is_named(step):
    """As often as a step asks for it. Other masks stay usable."""
    proposals = proposals_of(bars((0, 40), (20, 60), (0, 80)))
    broken = replace(proposals, masks=[*proposals.masks[:2], {"size": [60, 80], "counts": b"oooo"}])
    for _ in range(2):
        with pytest.raises(RefexpError) as error:
            step(every([1, 1, 1]), broken)
        assert str(error.value) == "masks[2] is not a run-length code of an image of 60 x 80 pixels."
    two = every([1, 1, 1]).pick(torch.arange(2))
    assert equal(step(two, broken), step(two, proposals))


def test_boxes_need_no_masks():
    proposals: Proposals = replace(scene()[1], masks=[{}] * 24)
    assert len(ClassNMS()(scene()[0], proposals)) and len(SoftNMS()(scene()[0], proposals))
