"""Masks where people put them."""

from __future__ import annotations

from pathlib import Path

import pytest

from refexp.inputs.mask_places import photographs_of


def owners(*names):
    top = Path("top")
    found = photographs_of([top / name for name in names], top)
    return {
        mask.relative_to(top).as_posix(): [photograph.relative_to(top).as_posix() for photograph in photographs]
        for mask, photographs in found.items()
    }


PAIRS = [
    ("cat/a.jpg", "cat/a_mask.png"), ("cat/a.jpg", "cat/a.mask.png"), ("cat/a.jpg", "cat/a_mask.jpg"),
    ("cat/a.jpg", "cat/a_MASK.PNG"), ("cat/a.jpg", "cat/a.jpg_mask.png"), ("cat/a.jpg", "cat/a-mask.tif"),
    ("cat/a.jpg", "cat/masks/a.png"), ("cat/a.jpg", "cat/Masks/a_mask.png"), ("cat/a.jpg", "cat/mask/a.jpg"),
    ("cat/a.jpg", "masks/a.png"), ("cat/a.jpg", "masks/cat/a.png"), ("cat/a.jpg", "masks/cat/a.jpg.png"),
    ("images/cat/a.jpg", "masks/cat/a.png"), ("cat/images/a.jpg", "cat/masks/a.png"), ("images/a.jpg", "masks/a.png"),
    ("masks/a.jpg", "masks/a_mask.png"),
]  # fmt: skip


@pytest.mark.parametrize(("photograph", "mask"), PAIRS)
def test_usual_places(photograph, mask):
    assert owners(photograph, mask, "cat/b.jpg", "dog/b.jpg") == {mask: [photograph]}


def test_no_masks():
    assert owners("a.jpg", "b_mask.png", "masks/c.png", "mask.png", "unmasked.jpg", "dog/masks/a2.png") == {}


def test_a_photograph_with_a_mask_is_not_itself_a_mask():
    """Also if its class is called `masks`."""
    found = owners("masks/1.jpg", "masks/1_mask.png", "faces/1.jpg", "faces/1_mask.png")
    assert found == {"masks/1_mask.png": ["masks/1.jpg"], "faces/1_mask.png": ["faces/1.jpg"]}


def test_all_that_a_mask_can_belong_to():
    assert owners("cat/a.jpg", "dog/a.jpg", "masks/a.png") == {"masks/a.png": ["cat/a.jpg", "dog/a.jpg"]}
    assert owners("a.jpg", "a.png", "a_mask.png") == {"a_mask.png": ["a.jpg", "a.png"]}
    assert owners("a.jpg", "a_mask.png", "masks/a.png") == {"a_mask.png": ["a.jpg"], "masks/a.png": ["a.jpg"]}
