"""Diagnostics: recall, upper bounds, confusion and verdict on images of a few squares with known answers."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from rich.console import Console

from refexp.data.coco import make_split
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.diagnostics import COUNTS, Diagnostics, score_of_rank
from refexp.evaluation.verdict import losses, reach_verdict
from refexp.masks import boxes_xywh, encode
from refexp.show.terminal import print_diagnosis
from refexp.types import Detections, Proposals

SIDE = 48
CLASSES = ("cat", "dog")


def square(x: int, y: int, side: int = 10) -> dict:
    mask = np.zeros((1, SIDE, SIDE), dtype=bool)
    mask[0, y : y + side, x : x + side] = True
    return encode(mask)[0]


CAT, DOG, FAR = square(0, 0), square(20, 0), square(30, 30)
HALF_CAT = square(5, 0)  # IoU 1/3
MOST_OF_DOG = square(22, 0)  # IoU 2/3


def split_of(images):
    """images: per image a list of (label, mask) or (label, mask, iscrowd)."""
    annotations = []
    for number, image in enumerate(images, start=1):
        for label, mask, *crowd in image:
            code = {"size": mask["size"], "counts": mask["counts"].decode()}
            record = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "segmentation": code}
            record |= {"bbox": boxes_xywh([mask])[0].tolist(), "iscrowd": int(bool(crowd))}
            annotations.append(record)
    records = [{"id": n, "file_name": "", "height": SIDE, "width": SIDE} for n in range(1, len(images) + 1)]
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    return make_split(content, "squares", CLASSES, read=lambda r: None, fingerprint=lambda r: "")


def proposals_of(masks, quality=None):
    quality = torch.linspace(1, 0.1, len(masks)) if quality is None else torch.tensor(quality)
    return Proposals(quality, torch.zeros(len(masks), 4), torch.zeros(len(masks), 1), list(masks), (SIDE, SIDE))


def found_in(image_id, rows):
    """rows: (label, score, mask), best first."""
    labels, scores = torch.tensor([r[0] for r in rows], dtype=torch.int64), torch.tensor([float(r[1]) for r in rows])
    return Detections(image_id, labels, scores, [r[2] for r in rows])


def concluded(diagnostics, records, found):
    """diagnostics.json's content, with the evaluation that goes before it."""
    metrics = CocoEvaluation(diagnostics.kinds).evaluate(diagnostics.targets, found, CLASSES).metrics
    return diagnostics.conclude(records, found, CLASSES, metrics)


def diagnose(images, offered, rows, kinds=("segm",), **settings):
    """One list of proposals' masks and of detections an image -> diagnostics.json's content by kind."""
    diagnostics = Diagnostics(split_of(images), list(kinds), **settings)
    found = [found_in(number, of_image) for number, of_image in enumerate(rows, start=1)]
    records = [diagnostics.examine(proposals_of(m), f) for m, f in zip(offered, found, strict=True)]
    content = concluded(diagnostics, records, found)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    return content["kinds"]


def test_recall_by_number_of_proposals():
    """The cat is the third best proposal, the dog's best (2/3) the first; image 2 has none at all."""
    images = [[(0, CAT), (1, DOG)], [(0, CAT), (0, FAR, True)]]
    offered = [[MOST_OF_DOG, FAR, CAT, HALF_CAT], []]
    for kind, recall in ((k, v["recall"]) for k, v in diagnose(images, offered, [[], []], ("segm", "bbox")).items()):
        assert recall["proposals"] == [1, 2, 4], kind
        assert recall["0.5"] == pytest.approx([1 / 3, 1 / 3, 2 / 3])
        assert recall["0.75"] == pytest.approx([0, 0, 1 / 3])
        assert recall["mean"] == pytest.approx([0.4 / 3, 0.4 / 3, 1.4 / 3])  # 2/3 passes .5, .55, .6 and .65


def test_proposals_are_ranked_by_quality():
    diagnostics = Diagnostics(split_of([[(0, CAT)]]), ["segm"])
    seen = diagnostics.examine(proposals_of([FAR, CAT], quality=[0.1, 0.9]), found_in(1, []))
    assert seen.by_kind["segm"].best[0].tolist() == [1.0] * (len(COUNTS) + 1)


def test_bounds_of_a_run_that_only_confuses_classes():
    images = [[(0, CAT), (1, DOG)]]
    of = diagnose(images, [[CAT, DOG]], [[(1, 0.9, CAT), (0, 0.8, DOG)]])["segm"]
    assert of["nAP"] == 0
    assert of["bounds"]["class"]["nAP"] == of["bounds"]["matching"]["nAP"] == pytest.approx(1)
    assert of["bounds"]["mask"]["nAP"] == 0
    assert of["errors"]["count"]["class"] == 2 and of["errors"]["dAP50"]["class"] == pytest.approx(1)
    assert of["instances"] == {"found": 0, "lost": 2, "unproposed": 0}
    assert of["verdict"]["by"] == of["verdict"]["by50"] == "matching"


def test_bounds_of_a_run_that_only_draws_badly():
    of = diagnose([[(0, CAT)]], [[HALF_CAT]], [[(0, 0.9, HALF_CAT)]])["segm"]
    assert of["nAP"] == of["bounds"]["class"]["nAP"] == of["bounds"]["matching"]["nAP"] == 0
    assert of["bounds"]["mask"]["nAP"] == pytest.approx(1)
    assert of["instances"] == {"found": 0, "lost": 0, "unproposed": 1}
    assert of["verdict"]["by"] == "segmentation" and "inexact outlines" in of["verdict"]["text"]


def test_oracles_keep_false_positives():
    """Best a false positive, then the cat. With right masks or classes, precision is 1/2 throughout."""
    of = diagnose([[(0, CAT)]], [[FAR, CAT, HALF_CAT]], [[(0, 0.9, FAR), (1, 0.8, CAT), (0, 0.7, HALF_CAT)]])["segm"]
    assert of["bounds"]["class"]["nAP"] == pytest.approx(0.5)
    assert of["bounds"]["mask"]["nAP"] == pytest.approx(0.5)
    assert of["bounds"]["matching"]["nAP"] == pytest.approx(1)


def test_oracles_keep_one_answer_an_instance():
    """Three that come to one cat and, below them, one for the other: neither oracle counts a duplicate."""
    other = square(0, 30)
    rows = [(0, 0.9, HALF_CAT), (1, 0.8, square(4, 0)), (0, 0.7, square(6, 0)), (0, 0.4, CAT), (0, 0.3, other)]
    of = diagnose([[(0, CAT), (0, other)]], [[]], [rows])["segm"]
    assert of["bounds"]["mask"]["nAP"] == of["bounds"]["class"]["nAP"] == pytest.approx(1)
    # The cat is the best overlap's (.4), and takes the highest score (.9), above the false positive.
    of = diagnose([[(0, CAT)]], [[]], [[*rows[:4], (0, 0.5, FAR)]])["segm"]
    assert of["bounds"]["class"]["nAP"] == pytest.approx(1)


def test_boxes_without_masks_have_bounds_too():
    split = split_of([[(0, CAT)]])
    for annotation in split.annotations:
        del annotation["segmentation"]
    diagnostics, found = Diagnostics(split, ["bbox"]), found_in(1, [(0, 0.9, HALF_CAT)])
    content = concluded(diagnostics, [diagnostics.examine(proposals_of([HALF_CAT]), found)], [found])
    assert content["kinds"]["bbox"]["bounds"]["mask"]["nAP"] == pytest.approx(1)


def test_confusion_with_background():
    images = [[(0, CAT), (1, DOG)], [(1, DOG, True)]]
    rows = [[(1, 0.9, CAT), (0, 0.8, CAT), (0, 0.7, FAR), (1, 0.2, DOG)], [(1, 0.9, DOG), (0, 0.9, DOG)]]
    confusion = diagnose(images, [[], []], rows, confusion_threshold=0.5)["segm"]["confusion"]
    assert confusion["classes"] == ["cat", "dog", "background"]
    # The dog's detection is below the threshold; in image 2 the crowd excuses dogs, not cats.
    assert confusion["matrix"] == [[0, 1, 0], [0, 0, 1], [3, 0, 0]]
    assert diagnose(images, [[], []], rows, confusion_threshold=0.1)["segm"]["confusion"]["matrix"][1] == [0, 1, 0]


def test_confusion_of_as_many_detections_as_instances():
    images = [[(0, CAT), (1, DOG), (1, FAR, True)]]
    rows = [[(0, 0.4, CAT), (0, 0.3, DOG), (1, 0.2, CAT)]]
    assert diagnose(images, [[]], rows)["segm"]["confusion"]["matrix"] == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert score_of_rank([found_in(1, rows[0])], 2) == pytest.approx(0.3)
    assert score_of_rank([found_in(1, rows[0])], 9) == pytest.approx(0.2)
    assert score_of_rank([found_in(1, [])], 9) == score_of_rank([found_in(1, rows[0])], 0) == 0


@pytest.fixture
def several():
    """40 images with random proposals and detections: (Diagnostics, records, detections)."""
    rng = np.random.default_rng(0)

    def scatter(count):
        return [square(*rng.integers(0, 34, 2).tolist(), int(rng.integers(6, 14))) for _ in range(count)]

    images = [[(int(rng.integers(2)), mask) for mask in scatter(rng.integers(0, 4))] for _ in range(40)]
    diagnostics = Diagnostics(split_of(images), ["segm", "bbox"])
    records, found = [], []
    for number, image in enumerate(images, start=1):
        masks = scatter(3) + [mask for _, mask in image if rng.random() < 0.7]
        rows = [(int(rng.integers(2)), score, mask) for score, mask in zip(rng.random(9).round(1), masks, strict=False)]
        found.append(found_in(number, sorted(rows, key=lambda row: -row[1])))
        records.append(diagnostics.examine(proposals_of(masks), found[-1]))
    return diagnostics, records, found


def test_neither_order_nor_ranks_matter(several):
    diagnostics, records, found = several
    gathered = pickle.loads(pickle.dumps(records[::2])) + pickle.loads(pickle.dumps(records[1::2]))
    assert concluded(diagnostics, gathered, found[::-1]) == concluded(diagnostics, records, found)
    with pytest.raises(ValueError, match="1 images were not examined"):
        concluded(diagnostics, records[1:], found)


def test_the_numbers_agree_with_each_other(several):
    diagnostics, records, found = several
    metrics = CocoEvaluation().evaluate(diagnostics.targets, found, CLASSES).metrics
    for kind, of in concluded(diagnostics, records, found)["kinds"].items():
        assert of["nAP"] == metrics[f"{kind}/nAP"] and of["errors"]["nAP50"] == pytest.approx(of["nAP50"], abs=1e-9)
        assert 0.05 < of["nAP"] < min(bound["nAP"] for bound in of["bounds"].values())
        assert sum(of["instances"].values()) == len(diagnostics.targets.annotations)
        assert np.sum(of["confusion"]["matrix"][:2]) == len(diagnostics.targets.annotations)
        assert of["recall"]["0.5"] == sorted(of["recall"]["0.5"])


def test_no_instance_counts():
    of = diagnose([[(0, CAT, True)]], [[CAT]], [[(0, 0.9, CAT)]])["segm"]
    assert of["nAP"] is None and of["verdict"]["by"] is None and of["recall"]["0.5"] == [0.0]


@pytest.mark.parametrize(
    ("run", "perfect", "by"),
    [
        (0.3, 0.9, "matching"),
        (0.3, 0.4, "segmentation"),
        (0.4, 0.7, "both"),
        (0.97, 0.98, "little"),
        (0.5, 0.4, "segmentation"),
    ],
)
def test_verdict(run, perfect, by):
    numbers = [{"nAP": value, "nAP50": value} for value in (run, perfect)]
    verdict = reach_verdict("segm", *numbers, {"found": 3, "lost": 2, "unproposed": 1}, {"class": 0.2, "missed": 0.1})
    assert verdict["by"] == verdict["by50"] == by
    assert f"nAP50 is {100 * run:.1f}" in verdict["text"] and "wrong class" in verdict["text"]


def test_a_bound_below_the_run_loses_nothing_to_matching():
    assert losses(0.5, 0.4) == (0, 0.5)


def test_it_is_printed(several, capsys):
    diagnostics, records, found = several
    content = concluded(diagnostics, records, found)
    print_diagnosis(Console(width=2000), content)
    written = capsys.readouterr().out
    for of in content["kinds"].values():
        assert of["verdict"]["text"] in written and f"{100 * of['nAP']:.1f}" in written
