"""The LVIS evaluation against faster-coco-eval's on random splits: equal up to the rounding of a quotient."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import fields

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from test_engine import random_detections, random_split

from refexp.data.lvis import FREQUENCIES, LvisSplit, federated_images
from refexp.evaluation.lvis_engine import LvisByImage, in_known_classes, top_scores
from refexp.evaluation.matches import match
from refexp.evaluation.protocol import of_all
from refexp.evaluation.reference import result_rows, truth_row

MOST = 120


@pytest.fixture(autouse=True)
def silent():
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)  # it logs every step


def random_federated(rng):
    classes = int(rng.integers(1, 5))
    split, names = random_split(rng, classes, int(rng.integers(1, 5)))
    for record in split.images.values():
        for field in ("neg_category_ids", "not_exhaustive_category_ids"):
            record[field] = np.flatnonzero(rng.random(classes) < 0.4).tolist()
    groups = dict(enumerate(rng.choice(FREQUENCIES, classes).tolist()))
    given = {one.name: getattr(split, one.name) for one in fields(split)}
    return LvisSplit(**given, groups=groups), names


def run_faster(kind, split, detections):
    """faster-coco-eval's numbers equal those of the `lvis` package. Returns its COCOeval and our rows."""
    images = federated_images(split)
    number = {image_id: image["id"] for image_id, image in images.items()}
    truth = [truth_row(kind, a, split, number, i) for i, a in enumerate(split.annotations, start=1)]
    counted = [in_known_classes(top_scores(found, MOST), images[found.image_id]) for found in detections]
    rows = [row for found in counted for row in result_rows(kind, found, number)]
    sides = []
    for records in (truth, [row | {"id": i} for i, row in enumerate(rows, start=1)]):
        side = COCO()
        categories = [{"id": label + 1, "frequency": of[0]} for label, of in split.frequencies().items()]
        side.dataset = {"images": list(images.values()), "categories": categories, "annotations": records}
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval_faster(*sides, kind, lvis_style=True)
    evaluation.params.maxDets = [1, 10, 100, MOST]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation, truth, rows


def check(seed):
    rng = np.random.default_rng(seed)
    split, names = random_federated(rng)
    found = random_detections(rng, split, len(names), 200 if seed % 5 == 0 else 30)
    arrays = []

    class Watched(LvisByImage):
        def numbers(self, precision, recall, matches):
            arrays.append((precision, recall))
            return super().numbers(precision, recall, matches)

    engine = Watched(split, names, ["bbox", "segm"], MOST)
    evaluated = engine.conclude([engine.match(one) for one in of_all(split, found)])
    images = federated_images(split).values()
    unsure = {(image["id"] - 1, label - 1) for image in images for label in image["not_exhaustive_category_ids"]}
    for kind, (precision, recall) in zip(("bbox", "segm"), arrays, strict=True):
        reference, truth, rows = run_faster(kind, split, found)
        # COCO and LVIS divide by `hits + false + 2.2e-16`, faster-coco-eval by `hits + false`.
        np.testing.assert_allclose(precision, reference.eval["precision"][..., -1], rtol=0, atol=2.3e-16)
        assert np.array_equal(recall, reference.eval["recall"])
        matches, mine = match(truth, rows, reference.ious, MOST), evaluated.matches[kind]
        free = [pair in unsure for pair in zip(matches.image.tolist(), matches.label.tolist(), strict=True)]
        matches.ignored[free] = ~matches.hit[free]
        assert all(np.array_equal(value, getattr(matches, name)) for name, value in vars(mine).items())


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_federated_splits_have_the_same_numbers(first):
    for seed in range(first, first + 20):
        check(seed)
