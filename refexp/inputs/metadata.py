"""Metadata of image files. They never decide whether pixels are used: what is broken is ignored."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from PIL import Image

ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> what makes the stored image upright. 5 to 8 swap width and height."""
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8. 1 without one, or if it cannot be read."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
        return int(turn) if turn in TURNS else 1
    except Exception:  # Pillow raises errors of any type for broken metadata
        return 1


def turned(image: Image.Image, turn: int) -> Image.Image:
    """Make a stored image of this orientation upright."""
    return image.transpose(TURNS[turn]) if turn in TURNS else image


def turned_back(image: Image.Image, turn: int) -> Image.Image:
    """Make an upright image of this orientation as it is stored."""
    return turned(image, {6: 8, 8: 6}.get(turn, turn))


def without_metadata(data: bytes) -> Iterator[bytes]:
    """Yield the content of a PNG or JPEG file without metadata: first with its orientation, then without."""
    if data.startswith(PNG):
        yield _bare_png(data, b"eXIf")
        yield _bare_png(data, b"")
    elif data.startswith(JPEG):
        yield _bare_jpeg(data, b"Exif\0\0")
        yield _bare_jpeg(data, b"-")


def _bare_png(data: bytes, kept: bytes) -> bytes:
    """Keep the chunks that make the pixels, and sound chunks of the type `kept`."""
    parts, at = [data[:8]], 8
    while at < len(data):
        tag, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        sound = zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if tag[:1].isupper() or tag == b"tRNS" or (tag == kept and sound):
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _bare_jpeg(data: bytes, kept: bytes) -> bytes:
    """Drop comments and the segments of applications, but those that begin with `kept` and Adobe's of the colours."""
    parts, at = [data[:2]], 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] not in (b"\xff", b"\xda", b""):
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        content = data[at + 4 : end]
        adobe = marker == 0xEE and len(content) >= 12
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or adobe or content.startswith(kept):
            parts.append(data[at:end])
        at = end
    return b"".join(parts) + data[at:]
