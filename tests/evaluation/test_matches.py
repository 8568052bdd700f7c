"""Matches, and what follows from them: numbers of single images, and the score to choose."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import fields

import numpy as np
import pytest
from conftest import CLASSES
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_evaluation import noisy, split_of

from refexp.data.lvis import LvisSplit
from refexp.data.readable import without
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.lvis_protocol import LvisEvaluation
from refexp.evaluation.matches import RECALLS, numbers_by_image, rows_by_class
from refexp.evaluation.reference import result_rows, truth_row
from refexp.evaluation.threshold import SCORES, counts
from refexp.kernels.image_precision import image_precision


@pytest.fixture
def targets(drawn):
    split = split_of(json.loads(json.dumps(drawn["references"][1])))
    for annotation in split.annotations[::5]:
        annotation["iscrowd"] = 1
    return split


@pytest.mark.parametrize("engine", ["refexp", "pycocotools"])
def test_hits_are_those_of_pycocotools(targets, engine):
    found = noisy(targets)
    matches = CocoEvaluation(["segm"], engine).evaluate(targets, found, CLASSES).matches["segm"]
    number = {image_id: n for n, image_id in enumerate(targets.images, start=1)}
    truth, results = COCO(), COCO()
    truth.dataset = {
        "images": [{**targets.images[id_], "id": n} for id_, n in number.items()],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [truth_row("segm", a, targets, number, i) for i, a in enumerate(targets.annotations, start=1)],
    }
    rows = [row for one in found for row in result_rows("segm", one, number)]
    results.dataset = truth.dataset | {"annotations": [row | {"id": i} for i, row in enumerate(rows, start=1)]}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results.createIndex()
        reference = COCOeval(truth, results, "segm")
        reference.evaluate()
    checked = 0
    for one in (one for one in reference.evalImgs if one and one["aRng"] == [0, 1e10]):
        mine = (matches.image == one["image_id"] - 1) & (matches.label == one["category_id"] - 1)
        ignored = one["dtIgnore"].astype(bool)
        assert matches.score[mine].tolist() == one["dtScores"]
        assert np.array_equal(matches.ignored[mine], ignored.T)
        assert np.array_equal(matches.hit[mine], ((one["dtMatches"] > 0) & ~ignored).T)
        checked += mine.sum()
    assert checked == len(matches.score) == sum(map(len, found))
    assert matches.hit.any() and matches.ignored.any()
    assert (matches.found > -np.inf).sum() == matches.hit[:, 0].sum()


def test_numbers_of_an_image_are_those_of_a_split_that_has_it_alone(targets):
    found = noisy(targets)
    evaluated = CocoEvaluation(["segm"]).evaluate(targets, found, CLASSES)
    numbers = numbers_by_image(evaluated.matches["segm"], len(found), evaluated.metrics["segm/F1_score"])
    for place, image_id in enumerate(targets.images):
        others = [other for other in targets.images if other != image_id]
        alone = without(targets, others)
        metrics = CocoEvaluation(["segm"]).evaluate(alone, found[place : place + 1], CLASSES).metrics
        for name in ("nAP", "nAP50"):
            expected = metrics[f"segm/{name}"]
            assert numbers[name][place] == (None if expected is None else pytest.approx(expected))


def test_best_f1_is_the_best_of_all_scores(targets):
    evaluated = CocoEvaluation(["segm"]).evaluate(targets, noisy(targets), CLASSES)
    matches, metrics = evaluated.matches["segm"], evaluated.metrics
    for label, name in enumerate(CLASSES):
        rows = (matches.label == label) & ~matches.ignored[:, 0]
        instances = (matches.true_label == label).sum()
        f1 = {}
        for score in matches.score[rows]:
            kept = rows & (matches.score >= score)
            f1[score] = 2 * matches.hit[kept, 0].sum() / (kept.sum() + instances)
        best = metrics[f"segm/F1_score/{name}"]
        assert metrics[f"segm/F1/{name}"] == pytest.approx(max(f1.values())) == pytest.approx(f1[best])
        precision, recall = metrics[f"segm/F1_precision/{name}"], metrics[f"segm/F1_recall/{name}"]
        assert 2 * precision * recall / (precision + recall) == pytest.approx(f1[best])
    right, false = counts(matches, 2).sum(axis=1)
    lowest = np.searchsorted(SCORES, metrics["segm/F1_score"], side="right") - 1
    assert right[0] == matches.hit[:, 0].sum()
    assert false[0] == (~matches.hit[:, 0] & ~matches.ignored[:, 0]).sum()
    assert right[lowest] >= round(metrics["segm/F1_recall"] * len(matches.true_label))


def test_lvis_ignores_what_may_be_right(targets):
    """AP of a class from its matches is that of the engine, also where a class is not annotated exhaustively."""
    targets.annotations[:] = [a | {"iscrowd": 0} for a in targets.annotations]
    for record in targets.images.values():
        record |= {"neg_category_ids": [1, 2], "not_exhaustive_category_ids": [2] if record["id"] % 2 else []}
    groups = {1: "frequent", 2: "rare"}
    split = LvisSplit(**{one.name: getattr(targets, one.name) for one in fields(targets)}, groups=groups)
    evaluated = LvisEvaluation(["segm"]).evaluate(split, noisy(targets), CLASSES)
    matches = evaluated.matches["segm"]
    for label, rows in enumerate(rows_by_class(matches.label, 2)):
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        instances = int((matches.true_label == label).sum())
        precision, one = np.zeros((1, 10)), np.ones(1, dtype=np.int64)
        arrays = matches.hit[rows], matches.ignored[rows], RECALLS, precision
        image_precision(0 * one, len(rows) * one, instances * one, *arrays)
        assert precision.mean() == pytest.approx(evaluated.metrics[f"segm/nAP/{CLASSES[label]}"])
        assert 0 < precision.mean() < 1
    assert matches.ignored.any()
