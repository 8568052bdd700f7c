"""Drawing: images as thin as they come, and a picture that fails."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refexp.masks import boxes_xywh, encode
from refexp.show.harmless import harmless
from refexp.show.instances import Instance
from refexp.show.overlays import draw, thumbnail, with_captions
from refexp.show.page.drawing import crop, mask_path, page_picture
from refexp.show.page.pictures import layers_of

THIN = [(2, 4000), (4000, 2), (1, 1), (1, 10_000), (9000, 3)]


def whole(size: tuple[int, int], text: str = "a long name of a class 0.93") -> tuple[np.ndarray, Instance]:
    """An image and an instance that fills it."""
    (mask,) = encode(np.ones((1, *size), dtype=bool))
    return np.zeros((*size, 3), dtype=np.uint8), Instance(1, 0, 0, boxes_xywh([mask])[0].tolist(), mask, text=text)


@pytest.mark.parametrize("size", THIN)
def test_thin_images_are_drawn(size):
    rgb, one = whole(size)
    overlay = draw(rgb, [one])
    assert max(overlay.size) == 720 and min(overlay.size) >= 1
    assert with_captions((overlay, "left"), (overlay, "right")).height == with_captions((overlay, "above")).height
    assert np.asarray(thumbnail(rgb, one.mask, 0)).std() > 1
    assert np.asarray(crop(rgb, one)).any()


@pytest.mark.parametrize("size", THIN)
def test_masks_of_thin_images_stay_on_their_picture(size):
    rgb, one = whole(size)
    picture = page_picture(rgb)
    assert mask_path(one.mask).startswith("M")
    x, y, *moves = [int(number) for number in mask_path(one.mask).strip("Mz").replace("l", " ").split()]
    ends = (x + np.cumsum(moves[::2])).max(), (y + np.cumsum(moves[1::2])).max()
    assert np.abs(np.subtract(ends, picture.size)).max() <= 1
    boxes = layers_of([Instance(1, 0, 0, one.box, None)], [], *size, None)["truth"]
    assert boxes[0]["d"].startswith(f"M0 0h{picture.width}v{picture.height}")


def test_the_first_instance_is_on_top_and_empty_ones_are_skipped():
    rgb, one = whole((40, 60), text="")
    (empty,) = encode(np.zeros((1, 40, 60), dtype=bool))
    same = draw(rgb, [one])
    assert (np.asarray(draw(rgb, [one, Instance(1, 1, 1, [0, 0, 0, 0], empty)])) == np.asarray(same)).all()


def test_a_picture_that_fails_is_one_warning(caplog):
    for number in range(3):
        with harmless(f"picture\n{number}"):
            Image.new("RGB", (number - 1, 5))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("picture\\n0 was not drawn: ValueError: ")
