"""Why an image file cannot be read: what it is instead, the limit that it passes, or how it is damaged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError, features

from refexp.errors import RefexpError, first_line
from refexp.inputs.kinds import kind_of_file

PLUGINS = {"a HEIC image": "pillow-heif", "an AVIF image": "pillow-avif-plugin"}
"""The pip packages that read what Pillow does not."""
FORMATS = {
    "a JPEG image": "JPEG", "a JPEG 2000 image": "JPEG2000", "a PNG image": "PNG", "a GIF image": "GIF",
    "a BMP image": "BMP", "a TIFF image": "TIFF", "a WebP image": "WEBP", "an AVIF image": "AVIF",
    "a HEIC image": "HEIF",
}  # fmt: skip
"""Pillow's names of the image formats."""
UNKNOWN_LAYOUT = (
    "handle",
    "support",
    "unknown",
    "unrecognized",
    "not available",
    "not installed",
    "unable to determine",
)
"""Words of Pillow's messages about files that are sound, but of a layout that it does not read."""
LONGEST = 120
"""Longest message of Pillow that is quoted, in characters."""

_limit = [200_000_000]
# Pillow warns and raises at limits of its own, whatever input.max_pixels allows.
Image.MAX_IMAGE_PIXELS = None


class Unreadable(RefexpError):
    """An image that cannot be read. reason: why, as in "it is a web page, not an image"."""

    def __init__(self, name: object, reason: str, remedy: str = "replace it or remove it") -> None:
        super().__init__(f"{name} cannot be read: {reason}; {remedy}.")
        self.reason = reason


def limit_pixels(pixels: int) -> None:
    """Set the number of pixels above which this process reads no image (`input.max_pixels`)."""
    _limit[0] = pixels


def check_pixels(name: object, size: Sequence[int]) -> None:
    """Raise Unreadable if an image of this size, (width, height), has no pixels or passes `input.max_pixels`."""
    width, height = size
    # The header of a damaged TIFF can hold something else than numbers.
    if not all(isinstance(side, int) and side > 0 for side in size):
        raise Unreadable(name, f"it is damaged (its size is {width} x {height} pixels)")
    if width * height > _limit[0]:
        reason = f"it has {width} x {height} pixels, more than input.max_pixels={_limit[0]}"
        raise Unreadable(name, reason, "shrink the image, or set a larger number")


def refusal(path: Path, error: Exception) -> Unreadable:
    """Return the error that tells why Pillow could not read a file. error: what Pillow raised."""
    kind = kind_of_file(path)
    if isinstance(error, MemoryError):
        return Unreadable(path, "it needs more memory than there is", "shrink it, or replace it if it is damaged")
    if isinstance(error, OSError) and error.strerror and kind != "a folder":
        return Unreadable(path, error.strerror, "check the file and its permissions")
    if kind in PLUGINS and not _plugin_is_here(kind):
        return Unreadable(
            path, f"it is {kind}, which needs the package {PLUGINS[kind]}", f"pip install {PLUGINS[kind]}"
        )
    if kind and kind not in FORMATS:
        return Unreadable(path, f"it is {kind}, not an image")
    if isinstance(error, UnidentifiedImageError):
        if kind is None:
            return Unreadable(path, "it is not an image of a known kind")
        error = _error_of(path, FORMATS[kind]) or error
    said = first_line(error)[:LONGEST]
    if isinstance(error, NotImplementedError) or any(word in said.lower() for word in UNKNOWN_LAYOUT):
        return Unreadable(path, f"its layout is not supported ({said})", "convert it to PNG or JPEG")
    return Unreadable(path, f"it is truncated ({said})" if _is_truncated(said) else f"it is damaged ({said})")


def _is_truncated(said: str) -> bool:
    return any(word in said.lower() for word in ("truncated", "not large enough", "unexpected end", "eof"))


def _plugin_is_here(kind: str) -> bool:
    if kind == "a HEIC image":
        return "HEIF" in Image.OPEN
    return "pillow_avif" in sys.modules or "avif" in features.get_supported()


def _error_of(path: Path, format_: str) -> Exception | None:
    """Return what the reader of a format says of a file. Pillow only tells that no reader knows it."""
    factory, _ = Image.OPEN.get(format_, (None, None))
    try:
        with path.open("rb") as file:
            if factory:
                factory(file, str(path))
    except Exception as error:  # readers raise errors of any type for damaged files
        return error
    return None
