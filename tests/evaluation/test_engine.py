"""refexp's own engine against pycocotools, to the last bit, on random splits."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from refexp.data.coco import make_split
from refexp.data.protocols import OTHER, SHORT_TRUTH, as_other
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.evaluation.engine import CocoByImage, Measure
from refexp.evaluation.overlaps import iou
from refexp.evaluation.protocol import of_all
from refexp.evaluation.reference import conclude, run_pycocotools
from refexp.masks import areas, boxes_xywh, decode, encode
from refexp.types import Detections

SIDE = 112
"""Of the images: a mask of the whole image is large by COCO's measure."""


def random_masks(rng, count):
    """Unions of two rectangles, from empty to the whole image."""
    masks = np.zeros((count, SIDE, SIDE), dtype=bool)
    for mask in masks:
        for _ in range(rng.integers(0, 3)):
            top, left = rng.integers(-20, SIDE, 2)
            height, width = rng.integers(1, rng.choice([8, 40, 150]), 2)
            mask[max(top, 0) : top + height, max(left, 0) : left + width] = True
    return masks


def random_split(rng, classes, images):
    """Some images and classes without annotations; crowds, equal instances, areas that are not the masks'."""
    records = [{"id": f"i{n}", "height": SIDE, "width": SIDE} for n in range(images)]
    annotations = []
    for record in records:
        count = rng.integers(0, 7)
        masks = random_masks(rng, count)
        masks = masks[rng.integers(0, max(count, 1), count)]  # some are drawn twice
        for rle in encode(masks) if count else []:
            of = {"image_id": record["id"], "category_id": int(rng.integers(rng.integers(1, classes + 1)))}
            of |= {"iscrowd": int(rng.random() < 0.2), "bbox": boxes_xywh([rle])[0].tolist(), "segmentation": rle}
            if rng.random() < 0.8:
                of["area"] = float(rng.choice([*areas([rle]), 32**2, 96**2, rng.uniform(0, 2e4)]))
            if rng.random() < 0.2:
                of[SHORT_TRUTH] = True
            annotations.append(of)
    rng.shuffle(annotations)  # the images' annotations are not next to each other in the file
    content = {
        "images": records,
        "annotations": [a | {"id": n} for n, a in enumerate(annotations)],
        "categories": [{"id": n, "name": f"c{n}"} for n in range(classes)],
    }
    names = [f"c{n}" for n in range(classes)]
    return make_split(content, "targets.json", names, lambda record: None, lambda record: ""), names


def random_detections(rng, split, classes, most):
    """The masks of annotations as they are, shifted and cut, and others; many scores and IoUs are equal."""
    found = []
    for image_id, truth in split.by_image.items():
        if rng.random() < 0.1:
            continue
        pool = encode(random_masks(rng, 3))
        for annotation in truth:
            mask = decode([annotation["segmentation"]])[0]
            shifted, cut = np.roll(mask, rng.integers(-6, 7, 2), axis=(0, 1)), mask.copy()
            cut[:, : SIDE // 2] &= rng.random() < 0.5
            pool += [annotation["segmentation"], *encode(np.stack([shifted, cut]))]
        count = int(rng.integers(0, most)) if rng.random() < 0.9 else 0
        labels = torch.from_numpy(rng.integers(0, rng.integers(1, classes + 1), count))
        scores = torch.from_numpy(rng.integers(0, 12, count) / 12 if rng.random() < 0.5 else rng.random(count)).float()
        found.append(Detections(image_id, labels, scores, [pool[i] for i in rng.integers(0, len(pool), count)]))
    return found


def random_case(seed):
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(1, 5))
    split, names = random_split(rng, classes, int(rng.integers(1, 5)))
    return split, random_detections(rng, split, classes, 260 if seed % 10 == 0 else 30), names


def own(split, found, names, *measures):
    """The engine, and the accumulated arrays of each of its measures at each limit."""
    arrays = []

    class Watched(CocoByImage):
        def numbers(self, precision, recall, matches):
            arrays.append((precision, recall))
            return super().numbers(precision, recall, matches)

    engine = Watched(split, names, measures)
    return engine.conclude([engine.match(one) for one in of_all(split, found)]), arrays


def same_matches(mine, theirs):
    return all(
        np.array_equal(value, getattr(theirs, name)) and value.dtype == getattr(theirs, name).dtype
        for name, value in vars(mine).items()
    )


def check_case(seed):
    split, found, names = random_case(seed)
    protocol = ("standard", "published")[seed % 2]
    kinds = [("bbox", "segm"), ("bbox",), ("segm",)][seed % 3]
    measures = [Measure(kind, protocol) for kind in kinds]
    if "bbox" in kinds:
        measures.append(Measure("bbox", OTHER[protocol]))
    evaluated, arrays = own(split, found, names, *measures)
    expected = {}
    for (kind, of), (precision, recall) in zip(measures, arrays, strict=True):
        reference = run_pycocotools(kind, split, found, names, of)
        assert np.array_equal(precision, reference.eval["precision"][..., -1])
        assert np.array_equal(recall, reference.eval["recall"])
        metrics, curve, matches = conclude(kind, reference, names)
        if of == protocol:
            expected |= metrics
            assert np.array_equal(evaluated.curves[kind], curve)
            assert same_matches(evaluated.matches[kind], matches)
        else:
            expected |= as_other(metrics, of)
    assert evaluated.metrics == expected
    assert list(evaluated.metrics) == list(expected)


@pytest.mark.parametrize("first", range(0, 120, 20))
def test_random_splits_have_pycocotools_numbers_to_the_last_bit(first):
    for seed in range(first, first + 20):
        check_case(seed)


def variants_of(seed, count=6):
    """A split with one image and several sets of detections of it, which share masks."""
    rng = np.random.default_rng(seed)
    split, names = random_split(rng, 3, 2)
    pool = encode(random_masks(rng, 20))
    found = []
    for _ in range(count):
        rows = rng.integers(0, 20, 12)
        labels, scores = torch.from_numpy(rng.integers(0, 3, 12)), torch.from_numpy(rng.random(12)).float()
        found.append(Detections("i0", labels, scores, [dict(pool[row]) for row in rows]))
    return split, found, names


def test_variants_of_an_image_share_overlaps_and_change_nothing(monkeypatch):
    split, variants, names = variants_of(3)
    seen = []
    monkeypatch.setattr("refexp.evaluation.engine.iou", lambda *sides: seen.append(len(sides[0])) or iou(*sides))
    engine = CocoEvaluation().by_image(split, names)
    together = [engine.match(found) for found in variants]
    assert sum(seen) == 2 * len({mask["counts"] for found in variants for mask in found.masks})
    for found, matched in zip(variants, together, strict=True):
        alone = CocoEvaluation().by_image(split, names).match(found)
        assert all(np.array_equal(value, getattr(alone, name)) for name, value in vars(matched).items())
    before = len(seen)
    engine.match(Detections("i1", *(getattr(variants[0], name) for name in ("labels", "scores", "masks"))))
    engine.match(variants[0])
    assert len(seen) > before + 2  # what another image came after is forgotten


def test_a_matched_image_is_small_and_can_be_sent():
    split, (found, *_), names = variants_of(4)
    matched = CocoEvaluation().by_image(split, names).match(found)
    assert sum(value.nbytes for value in vars(matched).values()) <= 40 * len(found) + 8 * len(split.by_image["i0"])
    sent = pickle.loads(pickle.dumps(matched))
    assert all(np.array_equal(value, getattr(sent, name)) for name, value in vars(matched).items())


def test_images_may_come_in_any_order_and_masks_of_truth_are_read_only_if_needed(monkeypatch):
    split, found, names = random_case(7)
    engine = CocoEvaluation().by_image(split, names)
    matched = {one.image_id: engine.match(one) for one in reversed(list(of_all(split, found)))}
    expected = CocoEvaluation().evaluate(split, found, names)
    assert engine.conclude([matched[image_id] for image_id in split.images]).metrics == expected.metrics
    for annotation in split.annotations:
        annotation.setdefault("area", 1.0)
    monkeypatch.setattr(type(split), "mask", None)
    assert set(CocoEvaluation().evaluate(split, [], names).metrics) == set(expected.metrics)
