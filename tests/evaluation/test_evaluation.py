"""COCO evaluation: the same numbers as pycocotools on the plain files, and the cases that break a naive use of it."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from conftest import CLASSES
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from refexp.data.coco import make_split
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.protocol import Evaluated, Evaluation, need_instances
from refexp.evaluation.reference import result_rows, truth_row
from refexp.masks import decode, encode
from refexp.types import Detections


def split_of(content):
    return make_split(content, "targets.json", CLASSES, read=lambda record: None, fingerprint=lambda record: "")


@pytest.fixture
def targets(drawn):
    return split_of(json.loads(json.dumps(drawn["references"][1])))


def perfect(targets, keep=lambda a: True) -> list[Detections]:
    found = []
    for image_id in targets.images:
        annotations = [a for a in targets.annotations if a["image_id"] == image_id and keep(a)]
        labels = torch.tensor([targets.labels[a["category_id"]] for a in annotations], dtype=torch.int64)
        found.append(Detections(image_id, labels, torch.ones(len(labels)), [targets.mask(a) for a in annotations]))
    return found


def noisy(targets, seed=0) -> list[Detections]:
    """Shifted masks, some wrong classes, random scores."""
    rng = np.random.default_rng(seed)
    found = []
    for detections in perfect(targets):
        masks = [encode(np.roll(decode([m]), rng.integers(-12, 12, 2), axis=(1, 2)))[0] for m in detections.masks]
        labels = torch.where(torch.from_numpy(rng.random(len(masks))) < 0.2, 1 - detections.labels, detections.labels)
        scores = torch.from_numpy(rng.random(len(masks))).float()
        found.append(Detections(detections.image_id, labels, scores, masks))
    return found


def test_perfect_detections_score_one(targets):
    metrics = CocoEvaluation().evaluate(targets, perfect(targets), CLASSES).metrics
    for name in ("nAP", "nAP50", "nAP75", "AR100", "nAP/leaf", "nAP50/ladybird", "nAP75/leaf"):
        assert metrics[f"segm/{name}"] == pytest.approx(1)
        assert metrics[f"bbox/{name}"] == pytest.approx(1)


def test_published_boxes_end_on_their_last_pixel(targets):
    """Then the same masks' boxes are one pixel smaller each way. COCO's truth and the masks do not change."""
    found, number = noisy(targets), {image_id: image_id for image_id in targets.images}
    both = "standard", "published"
    standard, published = (CocoEvaluation(protocol=one).evaluate(targets, found, CLASSES).metrics for one in both)
    boxes = [[row["bbox"] for row in result_rows("bbox", found[0], number, one)] for one in both]
    assert boxes[1] == [[x, y, w - 1, h - 1] for x, y, w, h in boxes[0]]
    truth = [truth_row("bbox", targets.annotations[0], targets, number, 1, one) for one in both]
    assert truth[0] == truth[1] and truth[0]["bbox"] == targets.annotations[0]["bbox"]
    assert published["bbox/nAP"] != standard["bbox/nAP"]
    assert {k: v for k, v in published.items() if "segm" in k} == {k: v for k, v in standard.items() if "segm" in k}


SUMMARY = (
    "nAP", "nAP50", "nAP75", "nAP_small", "nAP_medium", "nAP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_equals_pycocotools_on_the_plain_files(targets, drawn, kind, tmp_path):
    found = noisy(targets)
    metrics = CocoEvaluation([kind]).evaluate(targets, found, CLASSES).metrics
    category = {label: id_ for id_, label in targets.labels.items()}
    rows = [row for one in found for row in one.to_coco(category)]
    if kind == "segm":  # with a box present, loadRes would take the box's area for the mask's
        rows = [{k: v for k, v in row.items() if k != "bbox"} for row in rows]
    (tmp_path / "truth.json").write_text(json.dumps(drawn["references"][1]))
    (tmp_path / "found.json").write_text(json.dumps(rows))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = [None if value < 0 else value for value in evaluation.stats]
    assert [metrics[f"{kind}/{name}"] for name in SUMMARY] == expected
    assert 0.02 < metrics[f"{kind}/nAP"] < 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_engines_give_the_same_numbers(targets, seed):
    targets.annotations[seed]["iscrowd"] = 1
    for found in (noisy(targets, seed), noisy(targets, seed)[:3], perfect(targets), []):
        own, reference = (
            CocoEvaluation(engine=engine, both=True).evaluate(targets, found, CLASSES)
            for engine in ("refexp", "pycocotools")
        )
        assert list(own.metrics.items()) == list(reference.metrics.items())
        assert all(np.array_equal(own.curves[kind], reference.curves[kind]) for kind in ("bbox", "segm"))
    assert CocoEvaluation(engine="pycocotools").by_image(targets, CLASSES) is None


def test_a_protocol_needs_two_methods_and_no_more(targets):
    class Count(Evaluation):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def check(self, targets):
            need_instances(targets)

        def evaluate(self, targets, detections, classes):
            return Evaluated({"count": self.factor * len(detections)}, {})

    protocol = Count(2.0)
    protocol.check(targets)
    assert protocol.evaluate(targets, perfect(targets), CLASSES).metrics == {"count": 2.0 * len(targets.images)}
    assert protocol.evaluate(targets, perfect(targets), CLASSES).curves == {}
    assert protocol.by_image(targets, CLASSES) is None


def test_wrong_classes_score_nothing(targets):
    wrong = [Detections(d.image_id, 1 - d.labels, d.scores, d.masks) for d in perfect(targets)]
    assert CocoEvaluation(["segm"]).evaluate(targets, wrong, CLASSES).metrics["segm/nAP"] == 0


def test_no_detections_at_all(targets):
    nothing = [Detections(i, torch.zeros(0, dtype=torch.int64), torch.zeros(0), []) for i in targets.images]
    metrics = CocoEvaluation().evaluate(targets, nothing, CLASSES).metrics
    assert metrics["segm/nAP"] == metrics["bbox/nAP"] == 0


def test_a_class_without_instances_does_not_count(targets):
    leafless = targets.restrict([0, 1])
    leafless.annotations[:] = [a for a in leafless.annotations if leafless.labels[a["category_id"]] == 0]
    metrics = CocoEvaluation(["segm"]).evaluate(leafless, perfect(leafless), CLASSES).metrics
    assert metrics["segm/nAP/leaf"] is None
    assert metrics["segm/nAP"] == pytest.approx(1)


def test_crowds_are_neither_asked_for_nor_held_against(targets):
    crowd = targets.annotations[0]
    crowd["iscrowd"] = 1
    missed = (
        CocoEvaluation(["segm"]).evaluate(targets, perfect(targets, keep=lambda a: a is not crowd), CLASSES).metrics
    )
    found = CocoEvaluation(["segm"]).evaluate(targets, perfect(targets), CLASSES).metrics
    assert missed["segm/nAP"] == found["segm/nAP"] == pytest.approx(1)


def test_annotation_id_zero_counts(targets):
    """COCOeval takes id 0 for "unmatched"; ids are renumbered, so such a file is evaluated like any other."""
    targets.annotations[0]["id"] = 0
    assert CocoEvaluation(["segm"]).evaluate(targets, perfect(targets), CLASSES).metrics["segm/nAP"] == pytest.approx(1)


def test_area_is_derived_where_it_is_missing(targets):
    for annotation in targets.annotations:
        del annotation["area"]
    assert CocoEvaluation().evaluate(targets, perfect(targets), CLASSES).metrics["bbox/nAP"] == pytest.approx(1)
