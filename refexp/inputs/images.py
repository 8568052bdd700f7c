"""Read photos and masks: EXIF rotation, transparency and bit depth, aligned with the annotations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from refexp.errors import MissingData, RefexpError
from refexp.inputs.frames import FileSize
from refexp.inputs.names import locate

OPAQUE = 127
"""Pixels with an alpha above this value belong to the object."""
ORIENTATION, QUARTER_TURNS = 0x0112, (5, 6, 7, 8)
"""The EXIF tag of the orientation, and the values that swap width and height."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open an image file. Raises MissingData if it does not exist, RefexpError if it cannot be read."""
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise MissingData(f"image not found: {path}") from None
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise RefexpError(
            f"cannot read image {path}: {error}. The file is damaged or is not an image; replace it or remove it."
        ) from None


def open_upright(path: Path) -> Image.Image:
    """Read an image file and apply its EXIF rotation. Raises the errors of `opened`."""
    with opened(path) as image:
        image.load()
        return ImageOps.exif_transpose(image)


def upright_size(path: Path) -> tuple[int, int]:
    """Read (width, height) after EXIF rotation from the file's header. Raises the errors of `opened`."""
    with opened(path) as image:
        turned = image.getexif().get(ORIENTATION) in QUARTER_TURNS
        if turned and image.format == "TIFF":  # some versions of Pillow rotate TIFF files on loading
            return open_upright(path).size
        return image.size[::-1] if turned else image.size


def file_sizes(folder: Path) -> Callable[[str], FileSize | None]:
    """Return a function that reads the size of an image in `folder` from its header. None if it cannot be read."""

    def look(name: str) -> FileSize | None:
        path = locate(folder, name)
        try:
            return file_size(path) if path else None
        except RefexpError:
            return None

    return look


def file_size(path: Path) -> FileSize:
    """Read the size of an image, stored and upright, from the file's header. Raises the errors of `opened`."""
    width, height = upright_size(path)
    with opened(path) as image:
        return FileSize((image.height, image.width), (height, width))


def read_rgb(path: Path, height: int, width: int) -> np.ndarray:
    """Read an image file as u8 [height, width, 3].

    The EXIF rotation is applied, unless only the unrotated image has the annotated size: then the annotations were
    made on the unrotated pixels. Transparent pixels become white. 16-bit gray is scaled to 8 bits. Gray becomes RGB.

    Raises the errors of `opened`, and RefexpError if the image does not have the annotated size.
    """
    with opened(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    for view in (upright, image):
        if view.size == (width, height):
            return as_rgb(view, path)
    raise RefexpError(
        f"{path} has {upright.width} x {upright.height} pixels, but its annotations say {width} x {height}; "
        "use the image on which the annotations were made."
    )


def as_rgb(image: Image.Image, path: Path) -> np.ndarray:
    """Convert an image of any mode to u8 [H, W, 3]: 16 bits are cut to the upper 8, transparent pixels become white.

    path: used in messages. Raises RefexpError for floating-point pixels.
    """
    if image.mode.startswith("I;16") or image.mode == "I":
        return np.repeat((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode == "F":
        raise RefexpError(f"{path} has floating-point pixels; convert it to 8 or 16 bits first.")
    if has_alpha(image):
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(image.convert("RGB"))


def to_mask(image: Image.Image) -> np.ndarray:
    """Convert an image of any mode to a mask, bool [H, W]: pixels that are neither black nor transparent."""
    solid = opaque(image)
    if image.mode in ("P", "PA"):  # palette indices: black is not always index 0
        image = image.convert("RGB")
    if image.mode in ("LA", "RGBA"):
        image = image.convert(image.mode[:-1])
    values = np.asarray(image)
    return (values.any(axis=2) if values.ndim == 3 else values != 0) & solid


def opaque(image: Image.Image) -> np.ndarray:
    """Return where an image is not transparent, bool [H, W]. True everywhere without an alpha channel."""
    if not has_alpha(image):
        return np.ones((image.height, image.width), dtype=bool)
    return np.asarray(image.convert("RGBA"))[..., 3] > OPAQUE


def has_alpha(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or a color that means transparent."""
    return "A" in image.getbands() or "transparency" in image.info


def to_square(rgb: np.ndarray, side: int) -> torch.Tensor:
    """Resize u8 [H, W, 3] to f32 [3, side, side] in [0, 1] (METHOD 2.1).

    Uses PIL's default filter (bicubic, antialiased). The aspect ratio is not kept.
    """
    resized = np.array(Image.fromarray(rgb).resize((side, side)))
    return torch.from_numpy(resized).permute(2, 0, 1).float() / 255
