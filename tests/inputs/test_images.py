"""Photographs come out as a person would see them, and line up with their annotations."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refexp.errors import MissingData, RefexpError
from refexp.inputs.images import open_upright, read_rgb, to_square, upright_size

RAMP = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (30, 1))  # 40 wide, 30 high, dark left, bright right


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options)
    return path


def test_grey_becomes_rgb(tmp_path):
    rgb = read_rgb(save(tmp_path / "a.png", RAMP), 30, 40)
    assert rgb.shape == (30, 40, 3)
    np.testing.assert_array_equal(rgb[..., 1], RAMP)


def test_16_bit_grey_keeps_its_shades(tmp_path):
    rgb = read_rgb(save(tmp_path / "a.png", RAMP.astype(np.uint16) * 257), 30, 40)
    np.testing.assert_array_equal(rgb, np.repeat(RAMP[..., None], 3, axis=2))


def test_16_bit_tiff(tmp_path):
    rgb = read_rgb(save(tmp_path / "a.tif", RAMP.astype(np.uint16) * 257), 30, 40)
    np.testing.assert_array_equal(rgb[..., 2], RAMP)


def test_transparency_shows_white(tmp_path):
    rgba = np.zeros((30, 40, 4), dtype=np.uint8)
    rgba[:, :20] = (200, 10, 10, 255)
    rgb = read_rgb(save(tmp_path / "a.png", rgba), 30, 40)
    assert tuple(rgb[0, 0]) == (200, 10, 10)
    assert tuple(rgb[0, 39]) == (255, 255, 255)


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "a.png", transparency=0)
    assert read_rgb(tmp_path / "a.png", 30, 40).shape == (30, 40, 3)


def test_cmyk(tmp_path):
    Image.fromarray(np.stack([RAMP] * 3, axis=-1)).convert("CMYK").save(tmp_path / "a.jpg")
    rgb = read_rgb(tmp_path / "a.jpg", 30, 40)
    assert rgb[15, 2].mean() < 60
    assert rgb[15, 37].mean() > 190


def rotated(path):
    """Stored lying on its side with EXIF orientation 6: a viewer turns it 90 degrees clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(path, exif=exif, quality=95)
    return path


def test_exif_rotation_is_applied(tmp_path):
    rgb = read_rgb(rotated(tmp_path / "a.jpg"), 40, 30)
    assert rgb.shape == (40, 30, 3)
    assert rgb[0].mean() < 20  # the dark left edge has become the top
    assert rgb[-1].mean() > 235


def test_exif_rotation_gives_way_to_annotations_of_the_raw_pixels(tmp_path):
    rgb = read_rgb(rotated(tmp_path / "a.jpg"), 30, 40)
    assert rgb.shape == (30, 40, 3)
    assert rgb[:, 0].mean() < 20


@pytest.mark.parametrize("content", ["missing", "truncated", "text", "empty"])
def test_unreadable_files_are_named(tmp_path, content):
    path = tmp_path / "photo.jpg"
    if content == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:4000])
    elif content != "missing":
        path.write_text("hello" if content == "text" else "")
    message = r"image not found: .*photo\.jpg$" if content == "missing" else r"cannot read image .*photo\.jpg: "
    for read in (open_upright, lambda path: read_rgb(path, 200, 200)):
        with pytest.raises(MissingData if content == "missing" else RefexpError, match=message):
            read(path)
    if content != "truncated":  # its head is whole
        with pytest.raises(MissingData if content == "missing" else RefexpError, match=message):
            upright_size(path)


def test_wrong_size_is_named_with_both_sizes(tmp_path):
    with pytest.raises(RefexpError, match="has 40 x 30 pixels, but its annotations say 50 x 30"):
        read_rgb(save(tmp_path / "a.png", RAMP), 30, 50)


def test_square_is_in_range_and_not_flipped():
    square = to_square(np.stack([RAMP] * 3, axis=-1), 64)
    assert square.shape == (3, 64, 64)
    assert 0 <= float(square.min()) < 0.02 < 0.98 < float(square.max()) <= 1
    assert (square[0, 0].diff() >= 0).all()
