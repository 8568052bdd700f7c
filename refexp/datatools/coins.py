"""A real photograph to try refexp on: the coins that come with scikit-image, as references and a target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.ndimage import binary_closing, binary_fill_holes, binary_opening
from skimage.data import coins
from skimage.filters import threshold_local
from skimage.measure import label

from refexp.data.coco import annotation_of
from refexp.data.folder import MASK
from refexp.files import write_json, write_picture

UPPER = 84
"""Height of the strip that holds the upper row of coins and no part of another."""
CHOSEN = (0, 2, 4)
"""The coins of the upper row that become references, counted from the left."""
SCALE = 2
NOTE = "Photograph: skimage.data.coins(). The masks come from a threshold, not from a person."


def write_coins(folder: Path) -> dict[str, Any]:
    """Write refs/coin/ (three coins of the upper row), photo.jpg (the other rows) and photo.json; return its content.

    The photograph, 303 x 384 pixels, ships with scikit-image, so nothing is downloaded. photo.json annotates the 18
    coins of photo.jpg.
    """
    picture = coins()
    masks = coin_masks(picture)
    for number, mask in enumerate((_upper_row(masks)[place] for place in CHOSEN), start=1):
        square = _square_around(mask)
        stem = folder / "refs/coin" / f"{number}"
        write_picture(stem.with_suffix(".png"), Image.fromarray(picture[square]))
        write_picture(stem.with_name(stem.name + MASK), Image.fromarray(mask[square].astype(np.uint8) * 255))
    photo = _enlarged(picture[UPPER:], Image.Resampling.BICUBIC)
    write_picture(folder / "photo.jpg", Image.fromarray(photo), quality=95)
    wanted = [_enlarged(mask[UPPER:], Image.Resampling.NEAREST) for mask in masks if mask[UPPER:].any()]
    height, width = photo.shape
    content = {
        "info": {"description": NOTE},
        "images": [{"id": 1, "file_name": "photo.jpg", "width": width, "height": height}],
        "annotations": [annotation_of(id_, 1, 1, mask) for id_, mask in enumerate(wanted, start=1)],
        "categories": [{"id": 1, "name": "coin"}],
    }
    write_json(folder / "photo.json", content)
    return content


def coin_masks(picture: np.ndarray) -> np.ndarray:
    """The masks of all coins, bool [N, H, W]: whatever is brighter than its surroundings, with holes filled.

    picture: u8 [H, W], with bright coins, none of which touches another.
    """
    bright = picture > threshold_local(picture, block_size=121, offset=-8)
    solid = binary_opening(binary_fill_holes(binary_closing(bright, iterations=2)), iterations=4)
    numbered, count = label(solid, return_num=True)
    return numbered == np.arange(1, count + 1)[:, None, None]


def _upper_row(masks: np.ndarray) -> list[np.ndarray]:
    """The masks of the upper row, from left to right."""
    row = [mask for mask in masks if not mask[UPPER:].any()]
    return sorted(row, key=lambda mask: int(mask.any(axis=0).argmax()))


def _square_around(mask: np.ndarray) -> tuple[slice, slice]:
    """The square as high as the upper strip with the coin in its middle, moved into the picture."""
    columns = np.flatnonzero(mask.any(axis=0))
    left = (columns[0] + columns[-1] + 1) // 2 - UPPER // 2
    left = min(max(left, 0), mask.shape[1] - UPPER)
    return slice(0, UPPER), slice(left, left + UPPER)


def _enlarged(pixels: np.ndarray, how: Image.Resampling) -> np.ndarray:
    height, width = pixels.shape
    return np.asarray(Image.fromarray(pixels).resize((width * SCALE, height * SCALE), how))
