"""Each step against a case worked out by hand or against its formula, written down plainly on whole masks."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import SIZE, bars, every, proposals_of, scene
from torchvision.ops import batched_nms

from refexp.errors import RefexpError
from refexp.masks import decode, encode, low_res_boxes, to_low_res
from refexp.method import contract
from refexp.method.pipeline import detect
from refexp.postprocess.steps import (
    NMS,
    ClassNMS,
    FillHoles,
    GraphDiffusion,
    LargestComponent,
    MinimumArea,
    SoftMerge,
    SoftNMS,
    Sort,
    TopK,
)
from refexp.types import Candidates, MemoryBank, Proposals

MEASURES, RANKS = ("iou", "smaller", "covered"), ("quality", "score", "product")


def overlap(measure: str, lower: np.ndarray, higher: np.ndarray) -> float:
    both = (lower & higher).sum()
    return (
        both
        / {
            "iou": (lower | higher).sum(),
            "smaller": min(lower.sum(), higher.sum()),
            "covered": lower.sum(),
        }[measure]
    )


def compete(candidates: Candidates, one: int, other: int, within: str) -> bool:
    return within == "image" or bool(candidates.labels[one] == candidates.labels[other])


# --- NMS


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.6, 2 / 3])
def test_the_papers_nms_is_torchvisions_to_the_last_bit(threshold):
    """Small whole boxes, so that many overlaps equal the threshold, many boxes have no area and many qualities tie."""
    random = np.random.default_rng(0)
    for _ in range(20):
        first, side = random.integers(0, 12, (60, 2)), random.integers(0, 8, (60, 2))
        boxes = torch.from_numpy(np.hstack([first, first + side])).float()
        quality = torch.from_numpy(random.integers(1, 30, 60) / 30).float()
        proposals = Proposals(quality, boxes, torch.ones(60, 4), [{}] * 60, SIZE)
        candidates = every(random.integers(0, 5, 60) / 5, random.integers(0, 3, 60).tolist())
        order = quality.argsort(descending=True, stable=True)
        kept = batched_nms(boxes[order], torch.arange(60.0, 0, -1), candidates.labels[order], threshold)[:40]
        expected = [i for i in order[kept].tolist() if candidates.scores[i] > 0]
        assert ClassNMS(threshold, keep=40)(candidates, proposals).index.tolist() == expected


def test_nms_by_hand():
    #             0..40     10..40 lies in it   60..80 alone
    masks = bars((0, 40), (10, 40), (60, 80))
    proposals, candidates = proposals_of(masks), every([0.5, 0.6, 0.7], [0, 1, 0])
    of = {"shape": "masks", "within": "image"}
    assert NMS(shape="masks")(candidates, proposals).index.tolist() == [0, 1, 2]  # of two classes
    assert NMS(**of)(candidates, proposals).index.tolist() == [0, 2]  # IoU 3/4
    assert NMS(**of, threshold=0.75)(candidates, proposals).index.tolist() == [0, 1, 2]  # not above it
    assert NMS(**of, threshold=0.8, measure="smaller")(candidates, proposals).index.tolist() == [0, 2]
    assert NMS(**of, threshold=0.8, measure="covered")(candidates, proposals).index.tolist() == [0, 2]
    by_score = {**of, "threshold": 0.8, "rank": "score"}
    assert NMS(**by_score, measure="smaller")(candidates, proposals).index.tolist() == [2, 1]
    assert NMS(**by_score, measure="covered")(candidates, proposals).index.tolist() == [2, 1, 0]  # 3/4 of 0 covered
    assert NMS(**of, keep=1)(candidates, proposals).index.tolist() == [0]


def test_a_suppressed_mask_suppresses_nothing():
    chain = proposals_of(bars((0, 40), (15, 55), (30, 70)))
    assert NMS(0.4, shape="masks")(every([1, 1, 1]), chain).index.tolist() == [0, 2]


def test_two_classes_of_one_proposal_become_one():
    proposals = proposals_of(bars((0, 40), (60, 80)))
    both = Candidates(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([0.3, 0.8, 0.5]))
    kept = NMS(shape="masks", within="image", rank="score")(both, proposals)
    assert list(zip(kept.index.tolist(), kept.labels.tolist(), strict=True)) == [(0, 1), (1, 1)]


@pytest.mark.parametrize(("measure", "rank"), list(itertools.product(MEASURES, RANKS)))
@pytest.mark.parametrize("within", ["class", "image"])
def test_nms_of_masks(measure, rank, within):
    candidates, proposals, masks = scene()
    quality, scores = proposals.quality, candidates.scores
    value = {"quality": quality, "score": scores, "product": quality * scores}[rank]
    kept: list[int] = []
    for i in value.argsort(descending=True).tolist():
        rivals = [j for j in kept if compete(candidates, i, j, within)]
        if all(overlap(measure, masks[i], masks[j]) <= 0.4 for j in rivals):
            kept.append(i)
    found = NMS(0.4, "masks", measure, within, rank)(candidates, proposals)
    assert found.index.tolist() == kept
    assert 1 < len(kept) < len(candidates)


# --- Soft-NMS


def test_soft_nms_by_hand():
    proposals = proposals_of(bars((0, 40), (20, 60), (60, 80)))  # the first two: 20 of 60 columns
    linear = SoftNMS("linear", threshold=0.3, shape="masks")(every([0.9, 0.6, 0.5]), proposals)
    assert linear.index.tolist() == [0, 2, 1]
    torch.testing.assert_close(linear.scores, torch.tensor([0.9, 0.5, 0.6 * 2 / 3]))
    spared = SoftNMS("linear", threshold=0.34, shape="masks")(every([0.9, 0.6, 0.5]), proposals)
    assert torch.equal(spared.scores, every([0.9, 0.6, 0.5]).scores)
    gaussian = SoftNMS("gaussian", sigma=0.5, shape="masks")(every([0.9, 0.6, 0.5]), proposals)
    torch.testing.assert_close(gaussian.scores, torch.tensor([0.9, 0.5, 0.6 * np.exp(-(1 / 9) / 0.5)]).float())


@pytest.mark.parametrize(("decay", "within"), list(itertools.product(["linear", "gaussian"], ["class", "image"])))
def test_soft_nms(decay, within):
    candidates, proposals, masks = scene(1)
    left = {i: float(score) for i, score in enumerate(candidates.scores)}
    expected = {}
    while left:
        best = max(left, key=left.__getitem__)
        expected[best] = left.pop(best)
        for i in left:
            if compete(candidates, i, best, within):
                o = overlap("iou", masks[i], masks[best])
                left[i] *= np.exp(-(o**2) / 0.5) if decay == "gaussian" else 1 - o if o > 0.3 else 1
    found = SoftNMS(decay, shape="masks", within=within)(candidates, proposals)
    np.testing.assert_allclose(found.scores, [expected[i] for i in found.index.tolist()], rtol=1e-6)
    assert (found.scores.diff() <= 0).all()


# --- merging and diffusion


def covered_by(masks: np.ndarray, candidates: Candidates) -> np.ndarray:
    """W of VARIANTS: the share of i that j covers, for j before i of the same class, f64 [N, N]."""
    found = np.zeros((len(candidates), len(candidates)))
    for i, j in itertools.combinations(range(len(candidates)), 2):
        if compete(candidates, i, j, "class"):
            found[j, i] = overlap("covered", masks[candidates.index[j]], masks[candidates.index[i]])
    return found


def ranked_scene(seed: int) -> tuple[Candidates, Proposals, np.ndarray]:
    candidates, proposals, masks = scene(seed)
    ranked = Sort("quality")(candidates, proposals)
    assert (proposals.quality[ranked.index].diff() < 0).all()
    return ranked, proposals, masks


def test_soft_merging_without_semantics():
    candidates, proposals, masks = ranked_scene(2)
    decay = np.sqrt(1 - covered_by(masks, candidates).max(axis=1))
    found = SoftMerge(semantics=False)(candidates, proposals)
    np.testing.assert_allclose(found.scores, candidates.scores.numpy() * decay, rtol=1e-3, atol=1e-6)
    alike = replace(proposals, features=torch.nn.functional.normalize(torch.ones(len(proposals), 4), dim=1))
    torch.testing.assert_close(SoftMerge()(candidates, alike).scores, found.scores, rtol=0, atol=1e-5)
    assert (SoftMerge()(candidates, proposals).scores >= found.scores).all()


def test_no_diffusion_is_soft_merging_without_semantics():
    candidates, proposals, _ = ranked_scene(3)
    found, plain = GraphDiffusion(alpha=0)(candidates, proposals), SoftMerge(semantics=False)(candidates, proposals)
    torch.testing.assert_close(found.scores, plain.scores, rtol=0, atol=1e-7)


@pytest.mark.parametrize("normalise", [False, True])
def test_diffusion(normalise):
    candidates, proposals, masks = ranked_scene(4)
    expected = candidates.scores.double().numpy().copy()
    for label in range(3):
        rows = np.flatnonzero(candidates.labels == label)
        weights = covered_by(masks, candidates)[np.ix_(rows, rows)]
        p, v = np.full(len(rows), 1 / len(rows)), weights.max(axis=1)
        for i in range(len(rows)):
            if normalise and weights[i].sum():
                weights[i] /= weights[i].sum()
        for _ in range(30):
            p = np.array([0.3 * sum(w * q for w, q in zip(row, p, strict=True)) for row in weights]) + 0.7 * v
        expected[rows] *= np.maximum(0, 1 - p) ** 0.5
    found = GraphDiffusion(normalise=normalise)(candidates, proposals)
    np.testing.assert_allclose(found.scores, expected, atol=2e-4)
    other = GraphDiffusion(normalise=not normalise)(candidates, proposals)
    assert (other.scores - found.scores).abs().max() > 0.01


def test_diffusion_by_hand():
    """0 covers half of 1, and 1 covers all of 2, of which 0 covers a half, too."""
    proposals = proposals_of(bars((0, 40), (20, 60), (30, 50)))
    p1 = 0.3 * 0.5 * 0 + 0.7 * 0.5
    p2 = 0.3 * (0.5 * 0 + 1 * p1) + 0.7 * 1
    found = GraphDiffusion()(every([1, 1, 1]), proposals)
    torch.testing.assert_close(found.scores, torch.tensor([1, 1 - p1, 1 - p2]).sqrt())


# --- how many stay


def test_top_k():
    candidates = every([0.1, 0.9, 0.5, 0.7, 0.6], [0, 0, 0, 1, 1])
    proposals = proposals_of(bars(*[(i, i + 5) for i in range(5)]))
    assert TopK(2)(candidates, proposals).index.tolist() == [1, 3]
    assert TopK(1, "class")(candidates, proposals).index.tolist() == [1, 3]
    assert TopK(2, "class")(candidates, proposals).index.tolist() == [1, 3, 4, 2]


# --- the shape of masks


def ring_and_more() -> np.ndarray:
    """A ring with a bay that opens to the border of the image, with a smaller part beside it; and a bar."""
    masks = np.zeros((2, *SIZE), dtype=bool)
    masks[0, 0:30, 0:30] = True
    masks[0, 10:20, 10:20] = False  # a hole
    masks[0, 0:5, 5:10] = False  # a bay, closed by the border of the image only
    masks[0, 50:55, 60:65] = True  # the other part
    masks[1, 40:50, 10:40] = True
    return masks


def test_holes_are_filled():
    masks = ring_and_more()
    proposals = proposals_of(masks)
    candidates, new = FillHoles()(every([0.5, 0.4]), proposals)
    masks[0, 10:20, 10:20] = True
    np.testing.assert_array_equal(decode(new.masks), masks)
    assert len(candidates) == 2 and torch.equal(new.boxes_lr, proposals.boxes_lr)
    assert not np.array_equal(decode(proposals.masks), masks)  # what was given stays as it was


def test_the_largest_part_stays():
    masks = ring_and_more()
    _, new = LargestComponent()(every([0.5, 0.4]), proposals_of(masks))
    masks[0, 50:55, 60:65] = False
    np.testing.assert_array_equal(decode(new.masks), masks)
    assert (new.boxes_lr - low_res_boxes(to_low_res(masks))).abs().max() <= 1


def test_only_the_masks_of_candidates_are_changed():
    masks = np.stack([ring_and_more()[0]] * 2)
    _, new = FillHoles()(every([0.5, 0.4]).pick(torch.tensor([1])), proposals_of(masks))
    assert new.masks[0] == encode(masks)[0] != new.masks[1]


def test_an_empty_mask_is_dropped():
    masks = ring_and_more()
    masks[1] = False
    proposals = replace(proposals_of(ring_and_more()), masks=encode(masks))
    candidates, _ = LargestComponent()(every([0.5, 0.4]), proposals)
    assert candidates.index.tolist() == [0]


def test_minimum_area():
    proposals = proposals_of(bars((0, 8), (0, 4), (0, 40)))  # a tenth, a twentieth and half of the image
    assert MinimumArea(0.1)(every([1, 1, 1]), proposals).index.tolist() == [0, 2]


# --- steps that change masks, in the pipeline


class All:
    """A matcher: every proposal is of class 0."""

    def match(self, proposals, bank):
        return every(torch.full((len(proposals),), 0.5))


def detected(*steps):
    contract.forget()
    return detect(1, proposals_of(ring_and_more()), MemoryBank(torch.eye(4)[:1], []), All(), steps)


def test_the_steps_that_follow_and_the_detections_get_the_changed_masks():
    seen = []

    def look(candidates, proposals):
        seen.append(proposals.masks)
        return candidates

    found = detected(LargestComponent(), look, FillHoles())
    assert [mask.sum() for mask in decode(found.masks)] == [30 * 30 - 5 * 5, 300]
    assert [mask.sum() for mask in decode(seen[0])] == [30 * 30 - 5 * 5 - 100, 300]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda p: replace(p, masks=p.masks[:1]), "gave 1 proposals; expected 2, as it got."),
        (lambda p: replace(p, quality=p.quality[:1]), "gave quality [1]; expected [2]"),
        (lambda p: replace(p, boxes_lr=p.boxes_lr / 0), "gave boxes_lr that are NaN or infinite, 8 of 8."),
        (
            lambda p: replace(p, masks=encode(np.zeros((2, *SIZE), dtype=bool))),
            "gave an empty mask, masks[0]; expected its candidates to be dropped.",
        ),
        (
            lambda p: replace(p, masks=encode(np.ones((2, 9, 9), dtype=bool))),
            "gave masks[0] of size [9, 9]; expected [60, 80], the image's",
        ),
    ],
)
def test_the_contract_of_changed_masks(bad, says):
    def step(candidates, proposals):
        return candidates, bad(replace(proposals, boxes_lr=proposals.boxes_lr + 1))

    with pytest.raises(RefexpError) as error:
        detected(step)
    assert str(error.value) == f"postprocess step {says}"
