"""Masks as people have them: the object is found, or what is doubtful is said."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from refexp.errors import RefexpError
from refexp.inputs.mask_files import as_mask, reference_mask, to_mask
from refexp.inputs.repairs import collecting

SIZE = (320, 240)


def disc() -> Image.Image:
    image = Image.new("L", SIZE)
    ImageDraw.Draw(image).ellipse((100, 60, 220, 180), fill=255)
    return image


DISC = disc()
TRUE = np.asarray(DISC) > 0
RNG = np.random.default_rng(0)


def iou(mask):
    return (mask & TRUE).sum() / (mask | TRUE).sum()


def gray(values):
    return Image.fromarray(np.asarray(values).astype(np.uint8))


def jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def palette(*colors):
    image = gray(TRUE)
    image.putpalette([*colors, *[0] * (768 - len(colors))])
    return image


NOISY = {
    "noise in the background": (gray(np.where(TRUE, 255, RNG.integers(0, 5, TRUE.shape))), 1),
    "noise on both": (gray(np.where(TRUE, 255 - RNG.integers(0, 9, TRUE.shape), RNG.integers(0, 9, TRUE.shape))), 1),
    "background 2, object 253": (gray(np.where(TRUE, 253, 2)), 1),
    "background 0 and 1, object 254 and 255": (gray(np.where(TRUE, 255, 1) - (np.indices(TRUE.shape)[0] > 120)), 1),
    "soft edge": (DISC.filter(ImageFilter.GaussianBlur(12)), 0.95),
    "smoothed edge": (DISC.resize((80, 60)).resize(SIZE, Image.Resampling.BILINEAR), 0.97),
    "JPEG": (jpeg(DISC, 60), 1),
    "JPEG of low quality": (jpeg(DISC, 10), 0.98),
    "16 bits with noise": (
        Image.fromarray(np.where(TRUE, 60000, RNG.integers(0, 900, TRUE.shape)).astype(np.int32)),
        1,
    ),
}


@pytest.mark.parametrize("what", NOISY)
def test_noise_and_soft_edges_are_thresholded(what):
    image, least = NOISY[what]
    with collecting() as repairs:
        assert iou(to_mask(image, "a.png")) >= least
    assert list(repairs.found) == ["masks thresholded"]


labels = np.zeros(TRUE.shape, dtype=np.uint8)
for number in range(200):
    labels[10 + number // 20 * 20 :, 10 + number % 20 * 15 :][:8, :8] = number + 1
thin = np.zeros(TRUE.shape, dtype=np.uint8)
for number, label in enumerate((80, 160, 240)):
    thin[:, 100 + number * 40] = label
CLEAN = {
    "0 and 255": TRUE * 255, "0 and 1": TRUE * 1, "a faint object": TRUE * 7, "thin labels": thin,
    "labels": TRUE * (1 + np.indices(TRUE.shape)[1] // 120), "200 instances": labels,
    "three values": TRUE * 128 + np.roll(TRUE, 60, 1) * 127,
}  # fmt: skip


@pytest.mark.parametrize("what", CLEAN)
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_clean_masks_stay(what, dtype):
    values = np.asarray(CLEAN[what]).astype(np.uint8)
    with collecting() as repairs:
        np.testing.assert_array_equal(as_mask(values.astype(dtype)), values != 0)
        np.testing.assert_array_equal(to_mask(Image.fromarray(values), "a.png"), values != 0)
    assert all("doubtful" in kind for kind in repairs.found)


photo = Image.effect_noise(SIZE, 60).convert("RGB")
DOUBTFUL = {
    "inverted": (gray(255 * ~TRUE), "covers 85% of the image and 100% of its border"),
    "background 1, object 2": (gray(1 + TRUE), "covers 100%"),
    "all set": (Image.new("L", SIZE, 255), "covers 100%"),
    "a red background, a black object": (palette(255, 0, 0, 0, 0, 0), "covers 85%"),
    "painted on the photograph": (Image.composite(Image.new("RGB", SIZE, "red"), photo, DISC), "has 256 values"),
    "many instances": (gray(labels), "has 201 values"),
    "a frame": (gray(np.pad(TRUE[1:-1, 1:-1] * 255, 1, constant_values=255)), "100% of its border"),
}


@pytest.mark.parametrize("what", DOUBTFUL)
def test_what_is_hardly_the_mask_of_an_object_is_warned_of(what, caplog):
    image, said = DOUBTFUL[what]
    to_mask(image, "a_mask.png")
    assert said in caplog.text and "a_mask.png" in caplog.text


def test_a_clean_mask_is_not_warned_of(caplog):
    to_mask(DISC, "a.png")
    assert caplog.text == ""


VOC = np.where(TRUE, 15, 0).astype(np.uint8)
VOC[TRUE & ~np.roll(TRUE, 3, axis=0)] = 255


@pytest.mark.parametrize("as_image", [True, False])
def test_the_void_of_a_label_image_is_background(as_image):
    image = Image.fromarray(VOC, "P")
    image.putpalette([value for index in range(256) for value in (index, index // 2, 0)])
    with collecting() as repairs:
        np.testing.assert_array_equal(to_mask(image, "a.png") if as_image else as_mask(VOC), VOC == 15)
    assert list(repairs.found) == ["pixels of the label 255 (void) taken as background"]


@pytest.mark.parametrize("size", [(2, 30), (3, 3), (10, 2), (1, 20), (40, 40)])
def test_the_void_around_a_small_object_is_background(size):
    values = np.zeros((80, 90), dtype=np.uint8)
    values[15 : 25 + size[0], 15 : 25 + size[1]] = 255
    values[20 : 20 + size[0], 20 : 20 + size[1]] = 1
    np.testing.assert_array_equal(as_mask(values), values == 1)


def test_a_strict_run_refuses_a_doubtful_mask():
    with collecting(strict=True), pytest.raises(RefexpError, match=r"maybe inverted.*a_mask.png covers"):
        to_mask(gray(255 * ~TRUE), "a_mask.png")


@pytest.mark.parametrize(
    "values",
    [
        TRUE * 0.9 + 0.02, np.where(TRUE, 5.0, -5.0), np.where(TRUE, 1.0, np.nan), np.where(TRUE, np.inf, -np.inf),
        np.where(TRUE, 3, -1), TRUE * 0.4, TRUE * 255.0,
    ],
    ids=["probabilities", "logits", "NaN", "infinite", "negative background", "two values", "whole numbers"],
)  # fmt: skip
def test_arrays_of_numbers(values):
    with collecting():
        assert iou(as_mask(values)) == 1


@pytest.mark.parametrize("values", [TRUE * 37.5 + 0.1, TRUE[..., None], np.array([["a"]]), np.zeros((0, 3))])
def test_arrays_that_are_no_masks_are_refused(values):
    with pytest.raises(RefexpError, match=r"^the mask of cat "):
        as_mask(values, "the mask of cat")


def test_a_black_object_on_a_transparent_background():
    image = Image.new("RGB", SIZE)
    image.putalpha(DISC)
    assert iou(to_mask(image, "a.png")) == 1


# --- cut-outs


def cut_out(tmp_path, alpha):
    image = photo.copy()
    image.putalpha(gray(alpha))
    image.save(tmp_path / "a.png")
    return reference_mask(tmp_path / "a.png", tmp_path / "a_mask.png")


@pytest.mark.parametrize("alpha", [TRUE * 255, TRUE * 120, np.asarray(DISC.filter(ImageFilter.GaussianBlur(2)))])
def test_a_cut_out_is_found_at_any_opacity(tmp_path, alpha):
    assert iou(cut_out(tmp_path, alpha)) > 0.97


def test_a_tight_cut_out_is_one(tmp_path):
    tight = TRUE[60:181, 100:221]
    Image.merge("RGBA", [gray(tight * 90)] * 3 + [gray(tight * 255)]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(reference_mask(tmp_path / "a.png", tmp_path / "a_mask.png"), tight)


def test_transparent_corners_and_edges_are_no_cut_out(tmp_path):
    corner, edge = np.full(TRUE.shape, 255), np.full(TRUE.shape, 255)
    corner[:20, :20] = edge[:, -2:] = 0
    for alpha in (corner, edge):
        with pytest.raises(RefexpError, match=r"a\.png has an alpha channel that hides only edges .*add a_mask\.png"):
            cut_out(tmp_path, alpha)


@pytest.mark.parametrize("top", [1, 255])
def test_a_mask_that_interpolation_has_resized_is_cut_at_half(top):
    small = Image.fromarray(TRUE[::4, ::4].astype(np.float32))
    for how in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
        values = np.asarray(small.resize(SIZE, how)) * top
        assert values.min() < 0
        assert iou(as_mask(values)) > 0.95


@pytest.mark.parametrize("logits", [(-5.0, 5.0), (-0.2, 4.0), (-np.inf, np.inf)])
def test_logits_are_cut_at_0(logits):
    assert iou(as_mask(np.where(TRUE, logits[1], logits[0]))) == 1
