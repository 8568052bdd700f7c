"""Reading photographs and masks as a person would see them, with their annotations still lining up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from refexp.errors import MissingData, RefexpError

OPAQUE = 127
"""Alpha above this belongs to the thing."""
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
"""EXIF's tag, and its values that swap width and height."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file while it is read. Raises MissingData if it is not there, RefexpError if it cannot be read."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise MissingData(f"image not found: {path}") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise RefexpError(
            f"cannot read image {path}: {error}. The file is damaged or no image; replace it, or leave it out."
        ) from None


def open_upright(path: Path) -> Image.Image:
    """An image file as a person sees it, EXIF rotation applied. Raises what `opened` does."""
    with opened(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) after EXIF rotation, from the file's head. Raises what `opened` does."""
    with opened(path) as image:
        turned = image.getexif().get(ORIENTATION) in QUARTER_TURNS
        if turned and image.format == "TIFF":  # some versions of Pillow turn these by themselves
            return open_upright(path).size
        return image.size[::-1] if turned else image.size


def read_rgb(path: Path, height: int, width: int) -> np.ndarray:
    """Image file -> u8 [height, width, 3].

    EXIF rotation is applied, unless the annotations were plainly drawn on the unrotated pixels (only these have the
    annotated size). Transparency shows white; 16-bit grey is scaled to 8 bits; grey becomes RGB.

    Raises what `opened` does, and RefexpError for a size other than the annotated one.
    """
    with opened(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    for view in (upright, image):
        if view.size == (width, height):
            return as_rgb(view, path)
    raise RefexpError(
        f"{path} is {upright.width} x {upright.height} pixels, but its annotations say {width} x {height}; "
        "use the image the annotations were made on."
    )


def as_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Any kind of image as u8 [H, W, 3]: 16 bits by their upper 8, what is transparent as white. path: for messages.

    Raises RefexpError for floating-point pixels.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        return np.repeat((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise RefexpError(f"{path} holds floating-point pixels; convert it to 8 or 16 bits first.")
    if has_alpha(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def to_mask(image: Image.Image) -> np.ndarray:
    """Where an image of any kind is not black (and, with an alpha channel, not transparent), bool [H, W]."""
    solid = opaque(image)
    if image.mode in ("P", "PA"):  # numbers of colours: black need not be the first
        image = image.convert("RGB")
    if image.mode in ("LA", "RGBA"):
        image = image.convert(image.mode[:-1])
    values = np.asarray(image)
    return (values.any(axis=2) if values.ndim == 3 else values != 0) & solid


def opaque(image: Image.Image) -> np.ndarray:
    """Where an image is not transparent, bool [H, W]; everywhere without an alpha channel."""
    if not has_alpha(image):
        return np.ones((image.height, image.width), dtype=bool)
    return np.asarray(image.convert("RGBA"))[..., 3] > OPAQUE


def has_alpha(image: Image.Image) -> bool:
    """Whether it has an alpha channel, or a colour that stands for transparent."""
    return "A" in image.getbands() or "transparency" in image.info


def to_square(rgb: np.ndarray, side: int) -> torch.Tensor:
    """u8 [H, W, 3] -> f32 [3, side, side] in [0, 1]: PIL's default filter (bicubic, antialiased), aspect not kept."""
    resized = np.array(Image.fromarray(rgb).resize((side, side)))
    return torch.from_numpy(resized).permute(2, 0, 1).float() / 255
