"""Pixels of any depth to 8 bits. White is what the file says or, where it does not, follows from the values."""

from __future__ import annotations

import numpy as np
from PIL import Image

from refexp.inputs.refusals import Unreadable
from refexp.inputs.repairs import repaired

SCALED = "pixels scaled to 8 bits by the values that occur"


def to_8_bits(values: np.ndarray, name: object, bits: int | None = None) -> np.ndarray:
    """Scale pixels of any shape to u8, all bands alike. Full 16 bits keep their upper 8. Notes what was guessed.

    name: the file in messages. bits: the depth that the file says it uses, if it is not that of the dtype.
    Raises Unreadable if no pixel is a finite number.
    """
    if values.dtype == np.bool_ or values.dtype == np.uint8:
        return values.astype(np.uint8) * (255 if values.dtype == np.bool_ else 1)
    if values.dtype.kind == "f":
        values = _finite(values.astype(np.float32), name)
    low, top = values.min(), values.max()
    if values.dtype.kind == "f" or low < 0:
        black, white = _span(float(low), float(top))
        repaired(SCALED, f"{name}, values from {low:g} to {top:g}; black is {black:g}, white is {white:g}")
        return np.rint(np.interp(values, (black, white), (0, 255))).astype(np.uint8)
    used = int(top).bit_length()
    if bits is None or used > bits:
        # A dark photograph of 16 bits may leave the highest bit unused. No camera has 15.
        bits = 16 if used == 15 and values.dtype.itemsize == 2 and values.dtype.kind == "u" else max(8, used)
        if top > 0 and bits != 16:
            repaired(SCALED, f"{name}, values up to {top} taken as {bits} bits")
    return (values >> (bits - 8) if bits > 8 else values).astype(np.uint8)


def from_bands(values: np.ndarray, name: object, alpha: bool) -> Image.Image:
    """Make an image of 8 bits of several bands of any depth, [H, W, bands]. alpha: the last band is transparency."""
    colors = values.shape[2] - alpha
    parts = [to_8_bits(values[..., :colors], name)]
    if alpha:  # often of another depth than the colors
        parts.append(to_8_bits(values[..., colors:], name))
    shown = np.concatenate(parts, axis=2)
    return Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown)


def _finite(values: np.ndarray, name: object) -> np.ndarray:
    """Replace what is no finite number by the smallest value."""
    finite = np.isfinite(values)
    if finite.all():
        return values
    if not finite.any():
        raise Unreadable(name, "none of its pixels is a finite number")
    repaired("pixels that are not finite numbers taken as the darkest", f"{name}, {(~finite).sum()} pixels")
    return np.where(finite, values, values[finite].min())


def _span(low: float, top: float) -> tuple[float, float]:
    """Return the values of black and white of pixels that are floating-point or negative."""
    if low < 0:
        return low, max(top, low + 1)
    if top <= 1:
        return 0.0, 1.0
    return 0.0, (1 << int(top).bit_length()) - 1.0 if top >= 128 else top
