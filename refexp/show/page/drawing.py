"""Pictures for the report page: images at screen size, masks as SVG paths over them, and crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from skimage.measure import find_contours

from refexp.masks import Rle, decode, decode_inside
from refexp.show.instances import Instance, window
from refexp.show.overlays import color, line_width, outline

SIDE = 800
"""Longer side of a picture on the page in pixels. Smaller images are not enlarged."""
CROP = 224
TOLERANCE = 0.6
"""Maximum error of a simplified outline in pixels. It is invisible below a line that is two pixels wide."""


def page_size(height: int, width: int) -> tuple[int, int]:
    """Original (H, W) -> (H, W) of its picture on the page."""
    scale = min(1.0, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def page_scales(size: Sequence[int]) -> tuple[float, float]:
    """Original (H, W) -> page pixels per original pixel, down and across. They differ if one side is a few pixels."""
    height, width = page_size(*size)
    return height / size[0], width / size[1]


def page_picture(rgb: np.ndarray) -> Image.Image:
    """u8 [H, W, 3] -> the picture at `page_size`."""
    height, width = page_size(*rgb.shape[:2])
    return Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS)


def mask_path(mask: Rle) -> str:
    """A mask's outline as SVG path data in whole pixels of the page's picture. Empty for an empty mask.

    Holes are separate outlines, so fill the path with the even-odd rule.
    """
    inside, (rows, columns) = decode_inside(mask)
    if not inside.size:
        return ""
    scales = page_scales(mask["size"])
    # Each pixel of the smaller picture takes the value of the original pixel at its centre.
    (y, from_y), (x, from_x) = (_sampled(*pair) for pair in zip((rows, columns), scales, strict=True))
    small = inside[np.ix_(from_y, from_x)]
    if not small.any():
        return box_path([columns.start, rows.start, inside.shape[1], inside.shape[0]], scales)
    # The padding closes outlines at the border. Contours are relative to pixel centres, hence the half pixel.
    outlines = [line[:, ::-1] + (x[0] - 0.5, y[0] - 0.5) for line in find_contours(np.pad(small, 1), 0.5)]
    return "".join(_closed(thin(line[:-1])) for line in outlines)


def _sampled(side: slice, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of the page's picture on one side of a box, and the original pixel of each, from the box's start."""
    last = side.stop - 1
    pixels = np.arange(int(side.start * scale), int(last * scale) + 1)
    return pixels, ((pixels + 0.5) / scale).astype(int).clip(side.start, last) - side.start


def box_path(box_xywh: Sequence[float], scales: tuple[float, float]) -> str:
    """A box at the original size as SVG path data on the page's picture. scales: from `page_scales`."""
    x, y, w, h = (round(float(side) * scale) for side, scale in zip(box_xywh, scales[::-1] * 2, strict=True))
    return f"M{x} {y}h{max(w, 1)}v{max(h, 1)}h{-max(w, 1)}z"


def thin(line: np.ndarray) -> np.ndarray:
    """Simplify a closed outline f64 [P, 2]: drop points that are at most TOLERANCE pixels off the line without them."""
    for start in (1, 0, 1, 0, 1, 0):
        if len(line) < 8:
            break
        before, after = np.roll(line, 1, axis=0), np.roll(line, -1, axis=0)
        along, offset = after - before, line - before
        twice_area = np.abs(along[:, 0] * offset[:, 1] - along[:, 1] * offset[:, 0])
        spare = twice_area <= TOLERANCE * np.maximum(np.hypot(*along.T), 1e-6)
        # Never drop two neighbours in one pass: the distance of each was measured with the other in place.
        spare[start::2] = False
        if len(line) % 2:
            spare[-1] = False
        line = line[~spare]
    return line


def _closed(line: np.ndarray) -> str:
    points = line.round().astype(int)
    steps = np.diff(points, axis=0)
    moves = " ".join(f"{dx} {dy}" for dx, dy in steps.tolist() if dx or dy)
    return f"M{points[0, 0]} {points[0, 1]}l{moves}z" if moves else f"M{points[0, 0]} {points[0, 1]}h1v1h-1z"


def crop(rgb: np.ndarray, instance: Instance) -> Image.Image:
    """A square crop around an instance, CROP pixels wide, with its mask outlined, or its box if it has no mask."""
    height, width = rgb.shape[:2]
    x1, y1, x2, y2 = window(instance.box, (height, width), least=48)
    piece = Image.fromarray(rgb[y1:y2, x1:x2])
    mask = decode([instance.mask])[0] if instance.mask is not None else _box_inside(instance.box, height, width)
    scale = CROP / max(piece.size)
    size = max(1, round(piece.width * scale)), max(1, round(piece.height * scale))
    drawn = np.array(piece.resize(size, Image.Resampling.LANCZOS))
    larger = np.asarray(Image.fromarray(mask[y1:y2, x1:x2]).resize(size, Image.Resampling.NEAREST))
    edge = outline(np.pad(larger, 1), line_width(size, 1 / 100))[1:-1, 1:-1]
    drawn[edge] = color(instance.label)
    return Image.fromarray(drawn)


def _box_inside(box_xywh: Sequence[float], height: int, width: int) -> np.ndarray:
    x, y, w, h = (round(float(side)) for side in box_xywh)
    inside = np.zeros((height, width), dtype=bool)
    inside[max(0, y) : y + max(h, 1), max(0, x) : x + max(w, 1)] = True
    return inside
