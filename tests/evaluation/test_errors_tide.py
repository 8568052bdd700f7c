"""Error kinds and what they cost: hand-made cases, the project's own nAP50, and TIDE's authors' package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refexp.data.coco import make_split
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.tide import (
    BACKGROUND,
    BOTH,
    CLASS,
    DUPLICATE,
    HIT,
    IGNORED,
    KINDS,
    LOCALISATION,
    MISSED,
    average_precision,
    cost_of_errors,
    judge,
    overlaps,
)
from refexp.masks import boxes_xywh, encode
from refexp.types import Detections

SIDE = 48


def square(x: int, y: int, side: int = 10) -> dict:
    mask = np.zeros((1, SIDE, SIDE), dtype=bool)
    mask[0, y : y + side, x : x + side] = True
    return encode(mask)[0]


FIRST, SECOND, THIRD = square(0, 0), square(20, 0), square(0, 30)
TRUTH = [(0, FIRST), (1, SECOND), (0, THIRD)]


def judged(found, truth=TRUTH, crowds=(), kind="segm"):
    """found: (label, score, mask) each; crowds: positions in truth."""
    labels, scores = torch.tensor([f[0] for f in found]), torch.tensor([f[1] for f in found])
    masks = [mask for _, mask in truth]
    crowd = np.isin(np.arange(len(truth)), crowds)
    detections = Detections(1, labels, scores, [f[2] for f in found])
    ious = overlaps(kind, detections, boxes_xywh(masks) if kind == "bbox" else masks, crowd.tolist())
    return judge(labels.numpy(), scores.numpy(), ious, np.array([label for label, _ in truth]), crowd)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize(
    ("label", "mask", "expected", "about"),
    [
        (0, FIRST, HIT, 0),
        (1, FIRST, CLASS, 0),
        (0, square(5, 0), LOCALISATION, 0),
        (1, square(5, 0), BOTH, 0),
        (0, square(35, 35), BACKGROUND, -1),
    ],
)
def test_each_kind(kind, label, mask, expected, about):
    judgement = judged([(label, 0.9, mask)], kind=kind)
    assert judgement.kinds == [expected] and judgement.nearest.tolist() == [about]
    # An instance that a wrong class or a bad outline is about is not missed as well; one hit is none of it.
    assert judgement.missed.tolist() == [expected in (BOTH, BACKGROUND), True, True]


def test_the_best_score_hits_and_the_other_is_a_duplicate():
    judgement = judged([(0, 0.3, FIRST), (0, 0.8, square(1, 0)), (1, 0.2, SECOND)])
    assert judgement.kinds == [DUPLICATE, HIT, HIT]
    assert judgement.matched.tolist() == [True, True, False] and judgement.missed.tolist() == [False, False, True]


def test_crowds_excuse_their_own_class_and_are_not_missed():
    inside = square(22, 2, 4)  # its IoU with the crowd is small, but all of it lies in the crowd
    assert judged([(1, 0.9, inside), (0, 0.8, inside)], crowds=[1]).kinds == [IGNORED, BACKGROUND]
    assert not judged([], crowds=[1]).missed[1]


def test_beyond_a_hundred_of_a_class_nothing_counts():
    found = [(0, 0.5, FIRST)] * 101 + [(1, 0.1, SECOND)]
    assert judged(found).kinds == [HIT] + [DUPLICATE] * 99 + [IGNORED, HIT]


def test_an_image_without_instances_or_detections():
    assert judged([(0, 0.9, FIRST)], truth=[]).kinds == [BACKGROUND]
    assert judged([]).missed.tolist() == [True, True, True]
    assert cost_of_errors([judged([(0, 0.9, FIRST)], truth=[])], 2) == (None, dict.fromkeys(KINDS))


def test_what_each_kind_costs():
    """One hit below one error: by hand, in classes of one or two instances."""
    base, costs = cost_of_errors([judged([(1, 0.9, square(35, 35)), (1, 0.8, SECOND), (0, 0.7, square(5, 0))])], 2)
    # Class 1: precision 1/2 at every recall. Class 0: two instances, no hit.
    assert base == pytest.approx(0.25)
    assert costs[BACKGROUND] == pytest.approx(0.25)
    half = 51 / 101  # the recalls 0, .01, ..., .50
    assert costs[LOCALISATION] == pytest.approx(half / 2)
    assert costs[MISSED] == pytest.approx(0)  # the one that is left to ask for is not hit either
    assert costs[CLASS] == costs[DUPLICATE] == costs[BOTH] == 0


def test_a_class_without_instances_does_not_count():
    base, costs = cost_of_errors([judged([(0, 0.9, square(5, 0)), (1, 0.8, FIRST)], truth=TRUTH[:1])], 2)
    assert base == 0 and costs[LOCALISATION] == pytest.approx(1)


def test_average_precision():
    assert average_precision(np.array([0.9, 0.8]), np.array([False, True]), 1) == pytest.approx(0.5)
    assert average_precision(np.array([0.1, 0.8]), np.array([False, True]), 1) == pytest.approx(1)
    assert average_precision(np.array([0.5]), np.array([True]), 0) == 0


def random_data(seed: int, crowds: bool):
    """30 images of squares in 3 classes, and detections near them and anywhere; (split, detections, judgements)."""
    rng = np.random.default_rng(seed)
    images, annotations, found = [], [], []
    for image_id in range(1, 31):
        images.append({"id": image_id, "file_name": str(image_id), "height": SIDE, "width": SIDE})
        truth = [(int(x), int(y), int(s)) for x, y, s in rng.integers([0, 0, 6], [34, 34, 14], (rng.integers(0, 5), 3))]
        labels, masks = rng.integers(0, 3, len(truth)).tolist(), [square(*t) for t in truth]
        for label, mask in zip(labels, masks, strict=True):
            code = {"size": mask["size"], "counts": mask["counts"].decode()}
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "segmentation": code}
            crowd = int(crowds and rng.random() < 0.2)
            annotations.append(annotation | {"bbox": boxes_xywh([mask])[0].tolist(), "iscrowd": crowd})
        guesses = [
            (label if rng.random() < 0.7 else int(rng.integers(3)), square(max(0, x + dx), max(0, y + dy), side))
            for label, (x, y, side) in zip(labels, truth, strict=True)
            for dx, dy in rng.integers(-4, 5, (rng.integers(0, 5), 2))
        ]
        guesses += [(int(rng.integers(3)), square(*rng.integers(0, 34, 2).tolist())) for _ in range(rng.integers(3))]
        scores = torch.from_numpy(rng.random(len(guesses))).sort(descending=True).values
        found.append(
            Detections(image_id, torch.tensor([g[0] for g in guesses]).long(), scores, [g[1] for g in guesses])
        )
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(3)],
    }
    split = make_split(content, "random", ("0", "1", "2"), read=lambda r: None, fingerprint=lambda r: "")
    return split, found


def judge_all(split, found, kind):
    judgements = []
    for detections in found:
        there = [a for a in split.annotations if a["image_id"] == detections.image_id]
        crowd = [bool(a["iscrowd"]) for a in there]
        truth = np.array([a["bbox"] for a in there]) if kind == "bbox" else [split.mask(a) for a in there]
        labels = np.array([a["category_id"] for a in there], dtype=int)
        ious = overlaps(kind, detections, truth, crowd)
        judgements.append(judge(detections.labels.numpy(), detections.scores.numpy(), ious, labels, np.array(crowd)))
    return judgements


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("crowds", [False, True])
def test_nap50_is_that_of_the_evaluation(kind, crowds):
    split, found = random_data(5, crowds)
    base, _ = cost_of_errors(judge_all(split, found, kind), 3)
    expected = CocoEvaluation([kind]).evaluate(split, found, ("0", "1", "2")).metrics[f"{kind}/nAP50"]
    assert base == pytest.approx(expected, abs=1e-9) and 0.1 < base < 0.9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_equals_the_authors_package(kind, seed):
    tidecv = pytest.importorskip("tidecv")
    from tidecv.errors import main_errors

    split, found = random_data(seed, crowds=False)
    truth, predicted = tidecv.Data("truth"), tidecv.Data("found")
    for image in split.images:
        truth.add_image(image, str(image))
    for a in split.annotations:
        truth.add_ground_truth(a["image_id"], a["category_id"], a["bbox"], split.mask(a))
    for detections in found:
        rows = zip(detections.labels.tolist(), detections.scores.tolist(), detections.masks, strict=True)
        for label, score, mask in rows:
            predicted.add_detection(detections.image_id, label, score, boxes_xywh([mask])[0].tolist(), mask)
    mode = tidecv.TIDE.BOX if kind == "bbox" else tidecv.TIDE.MASK
    run = tidecv.TIDE().evaluate(truth, predicted, mode=mode)
    names = ("Class", "Box", "Other", "Duplicate", "Background", "Missed")
    theirs = [getattr(main_errors, f"{name}Error") for name in names]

    judgements = judge_all(split, found, kind)
    base, costs = cost_of_errors(judgements, 3)
    counts, fixed = run.count_errors(), run.fix_main_errors()
    kinds = [one for judgement in judgements for one in judgement.kinds]
    ours = {name: kinds.count(name) for name in KINDS} | {MISSED: sum(int(j.missed.sum()) for j in judgements)}
    assert list(ours.values()) == [counts[error] for error in theirs]
    assert min(ours.values()) > 0
    # A recall of whole hundredths falls into one of the 101 bins or the next by rounding: pycocotools and this package
    # take np.linspace for the bins, tidecv divides. One bin of one of three classes.
    one_bin = 100 / 101 / 3
    assert 100 * base == pytest.approx(run.ap, abs=one_bin)
    assert [100 * cost for cost in costs.values()] == pytest.approx([fixed[error] for error in theirs], abs=one_bin)
