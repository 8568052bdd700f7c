"""TIFF files that Pillow garbles or cannot read: read by tifffile, or refused by the name of their layout."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from refexp.inputs.depth import from_bands, to_8_bits
from refexp.inputs.kinds import kind_of_file
from refexp.inputs.metadata import ORIENTATION, TURNS
from refexp.inputs.refusals import Unreadable, check_pixels
from refexp.inputs.repairs import repaired

if TYPE_CHECKING:  # it takes long to import, and few images need it
    from tifffile import TiffPage

HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS, PHOTOMETRIC, MAX_VALUE, PLANES, SAMPLE_FORMAT = 258, 262, 281, 284, 339
"""Tags of the pixels: bits of a sample, meaning of 0, largest value, whether bands lie apart, kind of numbers."""
PAGE_KIND, INNER_PAGES, DNG = 254, 330, 50706
"""Tags of raw photographs: the first page is a preview (1), the photograph lies in pages of pages; a DNG file."""
CONVERT = "convert it to 8 or 16 bits of gray or RGB"


class MissingCodec(Unreadable):
    """A TIFF file with a compression that tifffile reads only with another package."""


def is_tiff(content: bytes) -> bool:
    """Whether the content of a file begins like a TIFF file."""
    return content[:4] in HEADS


def depth(tags: Any) -> int:
    """Return the bits of a sample. tags: Pillow's."""
    return max(tags.get(BITS, (1,)))


def is_signed(tags: Any) -> bool:
    """Whether samples can be negative integers."""
    return 2 in tags.get(SAMPLE_FORMAT, ())


def is_garbled(tags: Any) -> bool:
    """Whether Pillow garbles an image with these tags: deep planes, deep negatives, and signed numbers of 8 bits."""
    deep = depth(tags) > 8
    return (deep and (tags.get(PLANES) == 2 or tags.get(PHOTOMETRIC) == 0)) or (not deep and is_signed(tags))


def check_first_page(path: Path, tags: Any) -> None:
    """Raise Unreadable if the first page is only the preview of a raw photograph."""
    raw = DNG in tags or (INNER_PAGES in tags and tags.get(PAGE_KIND, 0) & 1)
    if raw or (kind_of_file(path) or "").startswith("a raw"):
        raise Unreadable(path, "it is a raw photograph", "export it as TIFF, PNG or JPEG")


def stated_bits(tags: Any) -> int | None:
    """Return the bits that a file says it uses, if these are fewer than those of the numbers that hold them."""
    largest = tags.get(MAX_VALUE, 0)
    used = int(max(largest) if isinstance(largest, tuple) else largest).bit_length()
    bits = depth(tags)
    return used if 8 < used < bits else bits if bits % 8 else None


def pages_of(source: Path | BytesIO) -> int:
    """Return the number of pages of a TIFF file."""
    with _opened(source) as file:
        return len(file.pages)


def size_of(source: Path | BytesIO) -> tuple[tuple[int, int], int]:
    """Return ((width, height), orientation) of the first page, as it is stored."""
    with _opened(source) as file:
        page: Any = file.pages.first
        return (page.imagewidth, page.imagelength), _turn(page)


def read(path: Path, source: Path | BytesIO) -> tuple[Image.Image, int]:
    """Read the first page as it is stored, and its orientation. Gray keeps its depth; more bands become 8 bits.

    source: `path`, or its content. Raises Unreadable for layouts that are not read, and whatever tifffile raises for
    damaged files.
    """
    with _opened(source) as file:
        page: Any = file.pages.first
        check_pixels(path, (page.imagewidth, page.imagelength))
        _check_layout(path, page)
        ends = zip(page.dataoffsets, page.databytecounts, strict=False)
        if max((offset + count for offset, count in ends), default=0) > file.filehandle.size:
            raise Unreadable(path, "it is truncated (its pixels lie beyond its end)")
        try:
            values = page.asarray()
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            layout = f"{page.compression.name} compression of {_layout(page)}"
            raise MissingCodec(path, f"{layout} needs the package imagecodecs", "pip install imagecodecs") from None
        if values.size != page.imagewidth * page.imagelength * page.samplesperpixel:
            raise Unreadable(path, f"it is damaged ({values.size} values for {_layout(page)})")
        return _image(path, page, values), _turn(page)


def _opened(source: Path | BytesIO) -> Any:
    from tifffile import TiffFile

    if not isinstance(source, Path):
        source.seek(0)
    return TiffFile(source)


def _turn(page: TiffPage) -> int:
    turn = page.tags.valueof(ORIENTATION, 1)
    return int(turn) if turn in TURNS else 1


def _layout(page: TiffPage) -> str:
    """Say how pixels are stored: `3 bands of 32-bit float (RGB)`."""
    bands = f"{page.samplesperpixel} band{'s' if page.samplesperpixel > 1 else ''}"
    return f"{bands} of {page.bitspersample}-bit {getattr(page.dtype, 'name', 'values')} ({_meaning(page)})"


def _meaning(page: TiffPage) -> str:
    return str(getattr(page.photometric, "name", page.photometric))


def _check_layout(path: Path, page: TiffPage) -> None:
    known = (
        _meaning(page) in ("MINISBLACK", "MINISWHITE", "RGB") and page.dtype is not None and page.dtype.kind in "buif"
    )
    if not known or page.samplesperpixel > 4:
        raise Unreadable(path, f"it has {_layout(page)}", CONVERT)
    if page.imagedepth > 1:
        raise Unreadable(path, f"it is a volume of {page.imagedepth} planes", "save one plane as an image")


def _image(path: Path, page: TiffPage, values: np.ndarray) -> Image.Image:
    """Convert pixels [H, W], [H, W, bands] or [bands, H, W] to an image of the mode L, I, F, LA, RGB or RGBA."""
    bands = page.samplesperpixel
    values = values.reshape((bands, *page.shape[-2:]) if page.planarconfig == 2 else (*values.shape[:2], bands))
    if page.planarconfig == 2:
        values = np.moveaxis(values, 0, -1)
    if _meaning(page) == "MINISWHITE":
        values = np.nanmax(values) - values if values.dtype.kind == "f" else ~values
    if bands == 1:
        gray = values[..., 0]
        if gray.dtype in (np.uint8, np.bool_):
            return Image.fromarray(to_8_bits(gray, path))
        fits = gray.dtype.kind in "iu" and gray.max() < 1 << 31
        return Image.fromarray(gray.astype(np.int32 if fits else np.float32))
    if _meaning(page) != "RGB" and bands > 2:
        repaired("bands of no stated color taken as red, green and blue", f"{path}, {_layout(page)}")
    colors = 1 if bands == 2 else 3
    alpha = bands > colors and page.extrasamples[:1] in ((1,), (2,))
    return from_bands(values[..., : colors + alpha], path, alpha)
