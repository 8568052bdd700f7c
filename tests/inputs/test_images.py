"""Photographs come out as a person would see them, and line up with their annotations."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from refexp.api import to_rgb
from refexp.data.folder import SUFFIXES
from refexp.errors import MissingData, RefexpError
from refexp.inputs import refusals
from refexp.inputs.depth import SCALED
from refexp.inputs.images import open_upright, read_rgb, to_square, upright_size
from refexp.inputs.refusals import Unreadable
from refexp.inputs.repairs import collecting

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
    message = r"image not found: .*photo\.jpg$" if content == "missing" else r"photo\.jpg cannot be read: "
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


# --- depth of pixels, bands and pages

DEEP = np.tile(np.linspace(0, 4095, 40).astype(np.uint16), (30, 1))  # 12 bits, dark left, bright right
COLOR = np.stack([DEEP, DEEP // 2, DEEP // 4], axis=-1)


def png_of_16_bits(path, values, color_type):
    """Pillow does not write these. values: u16 [H, W] or [H, W, bands]."""

    def chunk(tag, data):
        return struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, color_type, 0, 0, 0)
    chunks = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def pgm(path, largest, values):
    path.write_bytes(b"P5 40 30 %d\n" % largest + values.astype(">u2").tobytes())
    return path


def tiff(path, values, **options):
    tifffile.imwrite(path, values, **options)
    return path


full = np.full_like(DEEP, 65535)
RIGHT = {  # what is written, and the mean color that must be read
    "12 bits in 16, PNG": (lambda p: png_of_16_bits(p, DEEP, 0), (127, 127, 127)),
    "12 bits in 16, PNG of colors": (lambda p: png_of_16_bits(p, COLOR, 2), (127, 63, 31)),
    "12 bits in 16, PNG with alpha": (lambda p: png_of_16_bits(p, np.dstack([COLOR, full]), 6), (127, 63, 31)),
    "12 bits in 16, gray PNG with alpha": (lambda p: png_of_16_bits(p, np.dstack([DEEP, full]), 4), (127, 127, 127)),
    "12 bits in 16, gray TIFF": (lambda p: tiff(p, DEEP), (127, 127, 127)),
    "12 bits in 16, TIFF of colors": (lambda p: tiff(p, COLOR, photometric="rgb"), (127, 63, 31)),
    "8 bits in 32": (lambda p: tiff(p, (DEEP >> 4).astype(np.int32)), (127, 127, 127)),
    "32 bits": (lambda p: tiff(p, DEEP.astype(np.uint32) << 20), (127, 127, 127)),
    "15 bits and a sign": (lambda p: tiff(p, (DEEP << 3).astype(np.int16)), (127, 127, 127)),
    "negative numbers": (lambda p: tiff(p, DEEP.astype(np.int16) - 1000), (127, 127, 127)),
    "float64": (lambda p: tiff(p, DEEP / 4095), (127, 127, 127)),
    "float32 of colors": (lambda p: tiff(p, (COLOR / 4095).astype(np.float32), photometric="rgb"), (127, 63, 31)),
    "float up to 255": (lambda p: tiff(p, (DEEP / 16).astype(np.float32)), (127, 127, 127)),
    "bands without a meaning": (
        lambda p: tiff(p, COLOR, photometric="minisblack", planarconfig="contig"), (127, 63, 31)
    ),
    "PGM of 16 bits that uses 12": (lambda p: pgm(p, 65535, DEEP), (127, 127, 127)),
}  # fmt: skip
NOT_GUESSED = {
    "16 bits in planes": (
        lambda p: tiff(p, np.moveaxis(COLOR * 16, -1, 0), photometric="rgb", planarconfig="separate"), (127, 63, 31)
    ),
    "0 is white": (lambda p: tiff(p, 65535 - DEEP * 16, photometric="miniswhite"), (127, 127, 127)),
    "16 bits of colors": (lambda p: tiff(p, COLOR * 16, photometric="rgb"), (127, 63, 31)),
    "PGM of 12 bits": (lambda p: pgm(p, 4095, DEEP), (127, 127, 127)),
    "a dark PGM of 12 bits": (lambda p: pgm(p, 4095, DEEP // 8), (15, 15, 15)),
    "a dark photograph of 16 bits": (lambda p: tiff(p, DEEP * 7), (55, 55, 55)),
}  # fmt: skip


@pytest.mark.parametrize("what", [*RIGHT, *NOT_GUESSED])
def test_white_is_white_at_any_depth(tmp_path, what):
    write, color = (RIGHT | NOT_GUESSED)[what]
    with collecting() as repairs:
        rgb = read_rgb(write(tmp_path / "a.png"), 30, 40)
    np.testing.assert_allclose(rgb.mean(axis=(0, 1)), color, atol=1)
    guessed = SCALED in repairs.found or "bands of no stated color taken as red, green and blue" in repairs.found
    assert guessed == (what in RIGHT)


def test_pixels_that_are_no_numbers_are_black(tmp_path):
    values = np.where(DEEP < 300, np.nan, DEEP / 4095)
    with collecting() as repairs:
        rgb = read_rgb(tiff(tmp_path / "a.tif", values), 30, 40)
    assert rgb[0, 0, 0] < 30 and rgb[0, -1, 0] == 255
    assert "pixels that are not finite numbers taken as the darkest" in repairs.found


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (np.zeros((30, 40, 5), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "5 bands of 8-bit"),
        (DEEP, {"photometric": "cfa"}, r"1 band of 16-bit uint16 \(CFA\)"),
        (DEEP + 1j, {}, "complex"),
        (np.full((30, 40), np.nan), {}, "none of its pixels is a finite number"),
    ],
)
def test_what_cannot_be_shown_is_named(tmp_path, values, options, reason):
    with pytest.raises(Unreadable, match=reason):
        read_rgb(tiff(tmp_path / "a.tif", values, **options), 30, 40)


def test_the_first_of_several_pages_is_read_and_said(tmp_path):
    pages = np.stack([np.full((30, 40), value, np.uint8) for value in (10, 200)])
    Image.fromarray(pages[0]).save(tmp_path / "a.gif", save_all=True, append_images=[Image.fromarray(pages[1])])
    for path in (tiff(tmp_path / "a.tif", pages), tmp_path / "a.gif"):
        with collecting() as repairs:
            assert (read_rgb(path, 30, 40) == 10).all()
        ((count, example),) = repairs.found.values()
        assert (count, example.endswith("page 1 of 2")) == (1, True)


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "gif", "jp2", "ppm", "bmp", "dib", "tif", "webp"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (40, 30), (200, 100, 50)).save(path)
    np.testing.assert_allclose(read_rgb(path, 30, 40)[15, 20], (200, 100, 50), atol=4)
    assert path.suffix in SUFFIXES


# --- metadata, limits and reasons


def tagged(number, kind, count, value):
    return struct.pack("<HHI", number, kind, count) + value.ljust(4, b"\0")


@pytest.mark.parametrize(
    "broken", [tagged(0x0128, 2, 2, b"x\0"), tagged(0x011A, 1, 1, b"H"), tagged(0x0100, 2, 3, b"4")]
)
def test_broken_exif_does_not_hide_the_orientation(tmp_path, broken):
    entries = [tagged(0x0112, 3, 1, b"\6"), broken]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path = save(tmp_path / "a.jpg", RAMP, exif=exif)
    assert upright_size(path) == (30, 40)
    assert read_rgb(path, 40, 30)[0].mean() < 20


@pytest.mark.parametrize("chunk", ["text of 2 MB", "short gAMA", "wrong checksum"])
def test_broken_metadata_of_a_png_is_ignored(tmp_path, chunk):
    exif = Image.Exif()
    exif[0x0112] = 6
    path, info = tmp_path / "a.png", PngImagePlugin.PngInfo()
    if chunk == "text of 2 MB":
        info.add_itxt("prompt", "a" * 2_000_000, zip=True)
    info.add(b"gAMA", b"\0" if chunk == "short gAMA" else b"\0\0\0\1")
    save(path, RAMP, pnginfo=info, exif=exif)
    if chunk == "wrong checksum":
        path.write_bytes(path.read_bytes().replace(b"gAMA\0\0\0\1", b"gAMA\0\0\0\2"))
    assert upright_size(path) == (30, 40)
    assert read_rgb(path, 40, 30)[0].mean() < 20


def test_a_short_segment_of_a_jpeg_is_ignored(tmp_path):
    path = rotated(tmp_path / "a.jpg")
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe0\0\x07JFIF\0" + data[20:])
    assert read_rgb(path, 40, 30)[0].mean() < 20


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
def test_annotations_may_be_made_on_stored_or_on_upright_pixels(tmp_path, suffix):
    path = rotated(tmp_path / f"a.{suffix}")
    assert read_rgb(path, 40, 30)[0].mean() < 20
    assert read_rgb(path, 30, 40)[:, 0].mean() < 20


def test_limits_are_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(refusals, "_limit", [1199])
    for read in (upright_size, open_upright, lambda path: to_rgb(Image.open(path))):
        with pytest.raises(RefexpError, match=r"40 x 30 pixels, more than input\.max_pixels=1199; "):
            read(save(tmp_path / "a.png", RAMP))
    with pytest.raises(RefexpError, match=r"input\.max_pixels=1199"):
        open_upright(tiff(tmp_path / "a.tif", DEEP / 2))
    refusals.limit_pixels(1200)
    assert upright_size(tmp_path / "a.png") == (40, 30)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99),
            "HEIC image, which needs the package pillow-heif; pip install",
        ),
        (b"<!DOCTYPE html>", "a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"%PDF-1.4\n", "a PDF document, not an image"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "an SVG drawing, not an image"),
        (b"II*\0\x10\0\0\0CR\2\0", r"a raw photograph \(CR2\), not an image"),
        (b"", "an empty file"),
        (b"hello", "not an image of a known kind"),
    ],
)
def test_a_refusal_names_what_the_file_is(tmp_path, monkeypatch, content, reason):
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (upright_size, open_upright):
        with pytest.raises(Unreadable, match=reason) as error:
            read(path)
        assert "damaged" not in str(error.value)


def test_12_bits_in_a_jpeg_are_named(tmp_path):
    path = save(tmp_path / "a.jpg", RAMP)
    data = bytearray(path.read_bytes())
    data[data.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(data)
    with pytest.raises(Unreadable, match=r"layout is not supported .*12-bit"):
        open_upright(path)


@pytest.mark.parametrize("options", [{}, {"photometric": "rgb"}])
def test_a_cut_tiff_is_truncated_not_black(tmp_path, options):
    path = tiff(tmp_path / "a.tif", COLOR if options else DEEP.astype(np.float64), **options)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(Unreadable, match="truncated"):
        open_upright(path)


def test_heic_with_its_plug_in(tmp_path):
    pytest.importorskip("pillow_heif")
    path = save(tmp_path / "a.heic", np.stack([RAMP] * 3, axis=-1))
    np.testing.assert_allclose(read_rgb(path, 30, 40)[15, ::13, 0], RAMP[15, ::13], atol=8)
