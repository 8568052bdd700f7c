"""Read photos: any format and depth, EXIF rotation and transparency, aligned with the annotations."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from refexp.errors import MissingData, RefexpError, first_line, shown
from refexp.inputs import tiffs
from refexp.inputs.depth import from_bands, to_8_bits
from refexp.inputs.frames import FileSize
from refexp.inputs.metadata import orientation, turned, turned_back, without_metadata
from refexp.inputs.names import locate
from refexp.inputs.refusals import Unreadable, check_pixels, refusal
from refexp.inputs.repairs import repaired

with suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
with suppress(ImportError):
    import pillow_avif  # noqa: F401  it registers itself

log = logging.getLogger(__name__)
T = TypeVar("T")
Source = Path | BytesIO
"""A file, or its content."""
BITS = "bits"
"""The key of `Image.info` with the depth that a file says it uses."""
PAGED = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose pages are the frames of an animation. A JPEG file's other pages are previews and depth maps."""
OTHER_BYTES = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L", "LA;16B": "RGBA"}
"""Layouts of 16-bit PNG files of which Pillow takes the upper bytes, and layouts that give the lower ones, or both."""


def open_upright(path: Path) -> Image.Image:
    """Read an image file and apply its EXIF rotation. Gray keeps its depth, colors have 8 bits.

    Raises MissingData if the file does not exist, and Unreadable with the reason if it cannot be read.
    """
    return turned(*_decoded(path))


def made_upright(image: Image.Image, name: object) -> Image.Image:
    """Apply the EXIF rotation of a PIL image. name: what it is in messages. Raises RefexpError if it is damaged."""
    check_pixels(name, image.size)
    try:
        image.load()
    except Exception as error:  # Pillow raises errors of any type for damaged files
        raise RefexpError(f"{name} cannot be read: {first_line(error)}") from None
    return turned(image, orientation(image))


def upright_size(path: Path) -> tuple[int, int]:
    """Read (width, height) after EXIF rotation from the file's header. Raises the errors of `open_upright`."""
    height, width = file_size(path).upright
    return width, height


def file_sizes(*folders: Path) -> Callable[[str], FileSize | None]:
    """Return a function that reads the size of an image in these folders from its header. None if it cannot be read."""

    def look(name: str) -> FileSize | None:
        path = next((path for folder in folders if (path := locate(folder, name))), None)
        try:
            return file_size(path) if path else None
        except RefexpError:
            return None

    return look


def file_size(path: Path) -> FileSize:
    """Read the size of an image, stored and upright, from the file's header. Raises the errors of `open_upright`."""
    (width, height), turn = _tried(path, partial(_header, path), tiffs.size_of)
    check_pixels(path, (width, height))
    return FileSize((height, width), (width, height) if turn >= 5 else (height, width))


def read_rgb(path: Path, height: int, width: int, content: bytes | None = None) -> np.ndarray:
    """Read an image file as u8 [height, width, 3]. content: the bytes of the file, if they are read already.

    The EXIF rotation is applied, unless only the unrotated image has the annotated size: then the annotations were
    made on the unrotated pixels. The rest is that of `as_rgb`.

    Raises the errors of `open_upright`, and RefexpError if the image does not have the annotated size.
    """
    image, turn = _decoded(path, content)
    upright = turned(image, turn)
    for view in (upright, image):
        if view.size == (width, height):
            return as_rgb(view, path)
    raise RefexpError(
        f"{path} has {upright.width} x {upright.height} pixels, but its annotations say {width} x {height}; "
        "use the image on which the annotations were made."
    )


def as_rgb(image: Image.Image, name: object) -> np.ndarray:
    """Convert an image of any mode to u8 [H, W, 3]. Gray becomes RGB, transparent pixels become white.

    More than 8 bits are scaled by what the file says it uses, or by the values that occur (see `to_8_bits`).
    name: the file in messages. Raises Unreadable for colors that cannot be converted.
    """
    if is_deep(image):
        gray = to_8_bits(np.asarray(image), name, image.info.get(BITS))
        return np.repeat(gray[..., None], 3, axis=2)
    if has_alpha(image):
        rgba = converted(image, "RGBA", name)
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.array(converted(image, "RGB", name))


def converted(image: Image.Image, mode: str, name: object) -> Image.Image:
    """Convert an image that is not deep to RGB or RGBA. Raises Unreadable for colors that cannot be converted."""
    try:
        if image.mode in ("La", "RGBa"):  # premultiplied
            image = image.convert(image.mode.upper())
        return image.convert(mode)
    except ValueError:
        raise Unreadable(name, f"its colors are {image.mode}", "convert it to RGB") from None


def is_deep(image: Image.Image) -> bool:
    """Whether an image is gray with more than 8 bits: integers or floating-point numbers."""
    return image.mode[0] in "IF"


def has_alpha(image: Image.Image) -> bool:
    """Whether an image has an alpha channel or a color that means transparent."""
    return not is_deep(image) and (image.mode[-1] in "Aa" or "transparency" in image.info)


def to_square(rgb: np.ndarray, side: int) -> torch.Tensor:
    """Resize u8 [H, W, 3] to f32 [3, side, side] in [0, 1] (METHOD 2.1).

    Uses PIL's default filter (bicubic, antialiased). The aspect ratio is not kept.
    """
    resized = np.array(Image.fromarray(rgb).resize((side, side)))
    return torch.from_numpy(resized).permute(2, 0, 1).float() / 255


def _decoded(path: Path, content: bytes | None = None) -> tuple[Image.Image, int]:
    """Return an image as its file stores it, and its EXIF orientation. Raises the errors of `open_upright`.

    content: the bytes of the file. None reads them.
    """
    return _tried(path, partial(_with_pillow, path), partial(tiffs.read, path), content)


def _tried(
    path: Path, read: Callable[[Source], T], read_tiff: Callable[[Source], T], content: bytes | None = None
) -> T:
    """Read a file, or its content, with Pillow. Where that fails, read it with tifffile, or without its metadata."""
    try:
        return read(path if content is None else BytesIO(content))
    except RefexpError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise MissingData(f"image not found: {path}") from None
    except Exception as error:  # Pillow raises errors of any type for damaged files, and so does tifffile
        if "\0" in str(path) or getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise MissingData(f"image not found: {shown(str(path))}") from None
        why = error
    for again in _other_ways(path, read, read_tiff, content):
        try:
            return again()
        except tiffs.MissingCodec:
            if isinstance(why, UnidentifiedImageError):
                raise  # else Pillow has the codec, and the file is damaged
        except RefexpError:
            raise
        except Exception as error:
            log.debug("%s: %s", path, error)
    raise refusal(path, why)


def _other_ways(
    path: Path, read: Callable[[Source], T], read_tiff: Callable[[Source], T], content: bytes | None
) -> Iterator[Callable[[], T]]:
    if content is None and not path.is_file():
        return
    content = path.read_bytes() if content is None else content
    if tiffs.is_tiff(content):
        yield partial(read_tiff, BytesIO(content))
    for bare in without_metadata(content):
        yield partial(read, BytesIO(bare))


def _header(path: Path, source: Source) -> tuple[tuple[int, int], int]:
    """Return ((width, height), orientation) as stored."""
    with Image.open(source) as image:
        check_pixels(path, image.size)
        if image.format != "TIFF":
            return image.size, orientation(image)
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        tiffs.check_first_page(path, tags)
        return (tags[256], tags[257]), orientation(image)  # some versions of Pillow give the size after rotation


def _with_pillow(path: Path, source: Source) -> tuple[Image.Image, int]:
    """Decode an image as it is stored; its EXIF orientation. source: `path`, or its content without metadata."""
    with Image.open(source) as image:
        check_pixels(path, image.size)
        if image.format == "TIFF":
            return _tiff(path, source, image)
        if image.format in PAGED:
            _note_pages(path, lambda: image.n_frames)  # type: ignore[attr-defined]
        decoder, layout = (image.tile[0][0], image.tile[0][3]) if image.tile else ("", "")
        image.load()
        turn = orientation(image)
        if image.format == "PPM" and decoder != "raw":
            image.info[BITS] = 16  # Pillow scales what the file says is white to 16 bits
        if image.format == "PNG" and layout in OTHER_BYTES and _is_dim(image):
            return _both_bytes(path, source, image, layout), turn
        # Files of 16 bits, which some versions of Pillow open with more.
        return image.convert("I;16") if image.mode == "I" and image.format in ("PNG", "PPM") else image, turn


def _tiff(path: Path, source: Source, image: Any) -> tuple[Image.Image, int]:
    """Decode a TIFF image that Pillow has opened, with tifffile where Pillow garbles it."""
    tags, turn = image.tag_v2, orientation(image)
    tiffs.check_first_page(path, tags)
    if image.is_animated:
        _note_pages(path, lambda: tiffs.pages_of(source))
    deep, bits = tiffs.depth(tags) > 8, tiffs.stated_bits(tags)
    if tiffs.is_garbled(tags):
        return tiffs.read(path, source)
    image.filename = ""  # else Pillow maps an uncompressed file into memory, with the sides of a turned one swapped
    image.load()
    if deep and (_is_dim(image) if image.mode in ("RGB", "RGBA") else _has_overflown(image, tags)):
        return tiffs.read(path, source)
    if orientation(image) != turn:  # some versions of Pillow rotate TIFF files on loading
        image = turned_back(image, turn)
    if deep and bits:
        image.info[BITS] = bits
    return image, turn


def _is_dim(image: Image.Image) -> bool:
    """Whether the upper bytes of 16-bit colors leave their two highest bits unused, so that the lower bytes matter."""
    bands = image.getextrema()
    return max(band[1] for band in bands[:3]) < 64  # type: ignore[index]


def _has_overflown(image: Image.Image, tags: Any) -> bool:
    """Whether numbers without a sign became negative, because Pillow's integers have one."""
    return image.mode == "I" and not tiffs.is_signed(tags) and image.getextrema()[0] < 0  # type: ignore[operator]


def _both_bytes(path: Path, source: Source, upper: Image.Image, layout: str) -> Image.Image:
    """Decode a 16-bit PNG again for the lower bytes, and scale both to 8 bits."""
    with Image.open(source) as image:
        (decoder, extents, offset, _), *_ = image.tile
        image.tile = [(decoder, extents, offset, OTHER_BYTES[layout])]  # type: ignore[list-item]
        image.load()
        lower = np.asarray(image)
    values = lower.view(">u2") if layout == "LA;16B" else (np.asarray(upper).astype(np.uint16) << 8) | lower
    return from_bands(values, path, alpha=values.shape[2] != 3)


def _note_pages(path: Path, count: Callable[[], int]) -> None:
    try:
        pages = count()
    except Exception:  # in a page that is not read
        return
    if pages > 1:
        repaired("images of several pages or frames: the first is read", f"{path}, page 1 of {pages}")
