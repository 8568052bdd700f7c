"""Reading photographs as a person would see them, with their annotations still lining up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from refexp.errors import MissingData, RefexpError


def read_rgb(path: Path, height: int, width: int) -> np.ndarray:
    """Image file -> u8 [height, width, 3].

    EXIF rotation is applied, unless the annotations were plainly drawn on the unrotated pixels (only these have the
    annotated size). Transparency shows white; 16-bit grey is scaled to 8 bits; grey becomes RGB.

    Raises RefexpError: missing or damaged file, or a size other than the annotated one.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise MissingData(f"image not found: {path}") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise RefexpError(f"cannot read image {path}: {error}. The file is damaged or no image; replace it.") from None
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
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def to_square(rgb: np.ndarray, side: int) -> torch.Tensor:
    """u8 [H, W, 3] -> f32 [3, side, side] in [0, 1]: PIL's default filter (bicubic, antialiased), aspect not kept."""
    resized = np.array(Image.fromarray(rgb).resize((side, side)))
    return torch.from_numpy(resized).permute(2, 0, 1).float() / 255
