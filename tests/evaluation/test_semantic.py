"""Semantic IoU: cases small enough to count the pixels by hand, on pictures of 4 x 6."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refexp.data.coco import make_split
from refexp.errors import RefexpError
from refexp.evaluation.semantic import SemanticEvaluation
from refexp.masks import encode
from refexp.types import Detections

CLASSES = ("cat", "dog")
H, W = 4, 6


def rows(top, bottom, left=0, right=W):
    """The mask of a rectangle, bool [4, 6]."""
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def split_of(*pictures):
    """A split of as many images as there are arguments, each a list of (class, mask[, crowd])."""
    annotations = []
    for image_id, objects in enumerate(pictures, start=1):
        for name, mask, *crowd in objects:
            rle = encode(mask[None])[0]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": CLASSES.index(name) + 1,
                "segmentation": rle, "iscrowd": int(bool(crowd)),
            })  # fmt: skip
    content = {
        "images": [{"id": i, "height": H, "width": W} for i in range(1, len(pictures) + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, start=1)],
    }
    return make_split(content, "targets.json", CLASSES, lambda record: None, lambda record: "")


def found(image_id, *detections):
    """Detections of an image, each (class, score, mask)."""
    labels = torch.tensor([CLASSES.index(name) for name, _, _ in detections], dtype=torch.int64)
    scores = torch.tensor([score for _, score, _ in detections])
    return Detections(image_id, labels, scores, [encode(mask[None])[0] for *_, mask in detections])


def evaluate(split, *detections, **settings):
    return SemanticEvaluation(**settings).evaluate(split, detections, CLASSES).metrics


def test_intersection_and_union_are_counted():
    split = split_of([("cat", rows(0, 2)), ("dog", rows(2, 4))])
    metrics = evaluate(split, found(1, ("cat", 0.9, rows(0, 1)), ("dog", 0.8, rows(1, 4))))
    assert metrics == {
        "semantic/IoU/cat": pytest.approx(6 / 12),  # 6 of its 12 pixels, none elsewhere
        "semantic/IoU/dog": pytest.approx(12 / 18),  # all of its 12, and 6 of the cat's
        "semantic/mIoU": pytest.approx((6 / 12 + 12 / 18) / 2),  # background is not in the mean
    }


def test_the_higher_score_is_on_top_whatever_the_order():
    split = split_of([("cat", rows(0, 4))])
    over, under = ("cat", 0.9, rows(0, 4)), ("dog", 0.6, rows(0, 3))
    for order in ((over, under), (under, over)):
        assert evaluate(split, found(1, *order))["semantic/IoU/cat"] == 1
    reverse = [("cat", 0.6, rows(0, 4)), ("dog", 0.9, rows(0, 3))]
    assert evaluate(split, found(1, *reverse))["semantic/IoU/cat"] == pytest.approx(6 / 24)


def test_of_equal_scores_the_first_is_on_top():
    split = split_of([("cat", rows(0, 4))])
    assert evaluate(split, found(1, ("cat", 0.7, rows(0, 4)), ("dog", 0.7, rows(0, 4))))["semantic/IoU/cat"] == 1
    assert evaluate(split, found(1, ("dog", 0.7, rows(0, 4)), ("cat", 0.7, rows(0, 4))))["semantic/IoU/cat"] == 0


def test_scores_below_the_threshold_are_not_painted():
    split = split_of([("cat", rows(0, 4))])
    for score, threshold, expected in ((0.5, 0.5, 1), (0.49, 0.5, 0), (0.49, 0.4, 1), (0.0, 0.0, 1)):
        metrics = evaluate(split, found(1, ("cat", score, rows(0, 4))), threshold=threshold)
        assert metrics["semantic/IoU/cat"] == expected


@pytest.mark.parametrize("tie_first", [True, False])
def test_the_smaller_annotation_is_on_top_whatever_the_order(tie_first):
    person, tie = ("cat", rows(0, 4)), ("dog", rows(1, 2, 2, 4))
    split = split_of([tie, person] if tie_first else [person, tie])
    metrics = evaluate(split, found(1, ("cat", 0.9, rows(0, 4))))
    assert metrics["semantic/IoU/cat"] == pytest.approx(22 / 24)
    assert metrics["semantic/IoU/dog"] == 0


def test_crowds_are_void():
    crowd, cat = ("cat", rows(2, 4), "crowd"), ("cat", rows(0, 1))
    split = split_of([cat, crowd])
    for prediction in (rows(0, 1), rows(0, 1) | rows(2, 4), rows(0, 1) | rows(3, 4)):
        assert evaluate(split, found(1, ("cat", 0.9, prediction)))["semantic/IoU/cat"] == 1
    # Another class there is no mistake either, but one outside is.
    assert evaluate(split, found(1, ("cat", 0.9, rows(0, 1)), ("dog", 0.9, rows(2, 4))))["semantic/mIoU"] == 1
    assert evaluate(split, found(1, ("cat", 0.9, rows(0, 2))))["semantic/IoU/cat"] == pytest.approx(6 / 12)


def test_an_instance_within_a_crowd_counts():
    split = split_of([("dog", rows(3, 4)), ("cat", rows(2, 4), "crowd")])
    assert evaluate(split, found(1, ("dog", 0.9, rows(3, 4))))["semantic/IoU/dog"] == 1
    assert evaluate(split, found(1, ("cat", 0.9, rows(3, 4))))["semantic/IoU/dog"] == 0


def test_pixels_are_counted_over_all_images():
    split = split_of([("cat", rows(0, 4))], [("cat", rows(0, 1))], [])
    detections = [found(1, ("cat", 0.9, rows(0, 4))), found(2), found(3, ("cat", 0.9, rows(0, 1, 0, 2)))]
    # 24 of 24 pixels, 0 of 6 and 2 invented: not the mean of 1, 0 and 0.
    assert evaluate(split, *detections)["semantic/IoU/cat"] == pytest.approx(24 / (24 + 6 + 2))


def test_an_image_without_detections_counts():
    split = split_of([("cat", rows(0, 4))], [("cat", rows(0, 4))])
    assert evaluate(split, found(1, ("cat", 0.9, rows(0, 4))))["semantic/IoU/cat"] == pytest.approx(0.5)
    assert evaluate(split)["semantic/mIoU"] == 0


def test_a_class_without_ground_truth_does_not_count():
    split = split_of([("cat", rows(0, 2))])
    metrics = evaluate(split, found(1, ("cat", 0.9, rows(0, 2)), ("dog", 0.8, rows(2, 4))))
    assert metrics == {"semantic/IoU/cat": 1, "semantic/IoU/dog": None, "semantic/mIoU": 1}
    only_crowd = split_of([("cat", rows(0, 2)), ("dog", rows(2, 4), "crowd")])
    assert evaluate(only_crowd, found(1, ("cat", 0.9, rows(0, 2))))["semantic/IoU/dog"] is None


def test_foreground_forgets_the_classes():
    split = split_of([("cat", rows(0, 2)), ("dog", rows(2, 3))])
    wrong_names = found(1, ("dog", 0.9, rows(0, 1)), ("cat", 0.8, rows(1, 4)))
    assert evaluate(split, wrong_names)["semantic/mIoU"] < 0.4
    # Foreground 18 of 24 painted pixels, background 0 of 6.
    assert evaluate(split, wrong_names, average="foreground") == {"semantic/FB-IoU": pytest.approx((18 / 24 + 0) / 2)}
    fewer = found(1, ("dog", 0.9, rows(0, 2)))
    expected = (12 / 18 + 6 / 12) / 2
    assert evaluate(split, fewer, average="foreground")["semantic/FB-IoU"] == pytest.approx(expected)


def test_targets_without_masks_are_refused():
    split = split_of([("cat", rows(0, 2)), ("dog", rows(2, 4))])
    SemanticEvaluation().check(split)
    for annotation in split.annotations:
        annotation["segmentation"] = []
    with pytest.raises(RefexpError, match="no masks, only boxes"):
        SemanticEvaluation().check(split)
    with pytest.raises(RefexpError, match="nothing to evaluate"):
        SemanticEvaluation().check(split_of([("cat", rows(0, 2), "crowd")]))
