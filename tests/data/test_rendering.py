"""The drawn scenes: reproducible, with exact masks, and a COCO dict the official reader accepts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from refexp.data.rendering import CLASSES, EMPTY_EVERY, MIN_AREA, render_scene, render_split

NAMES = list(CLASSES)
Split = tuple[list[np.ndarray], dict[str, Any]]


@pytest.fixture(scope="module")
def split() -> Split:
    return render_split(seed=7, classes=NAMES, images=2 * EMPTY_EVERY)


def test_same_seed_same_split_whatever_its_length(split: Split) -> None:
    pictures, coco = split
    shorter, shorter_coco = render_split(seed=7, classes=NAMES, images=5)
    for one, other in zip(shorter, pictures, strict=False):
        np.testing.assert_array_equal(one, other)
    assert shorter_coco["images"] == coco["images"][:5]
    assert shorter_coco["annotations"] == [a for a in coco["annotations"] if a["image_id"] <= 5]


def test_seed_and_split_name_change_the_pictures(split: Split) -> None:
    first = split[0][0]
    for other in (render_split(8, NAMES, 1), render_split(7, NAMES, 1, split="test")):
        assert not np.array_equal(first, other[0][0])


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_disjoint_and_of_the_picture(seed: int) -> None:
    rgb, objects = render_scene(np.random.default_rng(seed), NAMES, first=seed)
    assert rgb.dtype == np.uint8 and rgb.ndim == 3
    assert 1 <= len(objects) <= 5
    masks = np.stack([mask for _, mask in objects])
    assert masks.shape[1:] == rgb.shape[:2] and masks.dtype == bool
    assert masks.sum(axis=0).max() == 1
    assert masks.sum(axis=(1, 2)).min() >= MIN_AREA


def test_boxes_and_areas_are_those_of_the_masks(split: Split) -> None:
    pictures, coco = split
    for annotation in coco["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"]).astype(bool)
        assert mask.shape == pictures[annotation["image_id"] - 1].shape[:2]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        width, height = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        assert annotation["bbox"] == [columns[0], rows[0], width, height]
        assert annotation["area"] == mask.sum()


def test_coco_dict_survives_json_and_the_official_reader(split: Split) -> None:
    pictures, plain = split
    coco = COCO()
    coco.dataset = json.loads(json.dumps(plain))
    coco.createIndex()
    assert coco.dataset == plain
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == NAMES
    assert len(coco.anns) == len(plain["annotations"]) and min(coco.anns) == 1
    for record, picture in zip(coco.loadImgs(coco.getImgIds()), pictures, strict=True):
        assert (record["height"], record["width"], 3) == picture.shape
    for annotation in coco.anns.values():
        assert coco.annToMask(annotation).sum() == annotation["area"]


def test_some_images_are_empty_and_every_class_occurs(split: Split) -> None:
    coco = split[1]
    filled = {a["image_id"] for a in coco["annotations"]}
    assert len(coco["images"]) - len(filled) == 2
    assert {a["category_id"] for a in coco["annotations"]} == set(range(1, len(NAMES) + 1))


def test_a_subset_of_classes_is_drawn_and_an_unknown_one_refused() -> None:
    _, coco = render_split(seed=1, classes=["leaf"], images=3)
    assert {a["category_id"] for a in coco["annotations"]} == {1}
    with pytest.raises(ValueError, match="unicorn"):
        render_split(seed=1, classes=["leaf", "unicorn"], images=1)
    with pytest.raises(ValueError, match="no classes"):
        render_split(seed=1, classes=[], images=1)
