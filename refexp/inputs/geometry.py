"""Boxes and masks of annotations against the frame of their image: everything that pycocotools cannot hold ends here.

A mask in an annotation file is a list of polygons, a compressed run-length code (RLE) or an uncompressed one.
`shape_of` turns every spelling into polygons or a compressed RLE, and finds the extent. pycocotools crashes on corners
that are far away, and an RLE that does not fill its image makes it read foreign memory or loop forever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from refexp.inputs.values import number

Extent = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels; x2 and y2 lie after the last pixel."""

SLACK = 0.1
"""A shape may leave its frame by this share of a side: it is then clipped. Beyond, it does not belong to the frame."""
MOST_PIXELS = 1 << 32
"""pycocotools counts pixels in 32 bits."""


@dataclass(frozen=True)
class Shape:
    """A mask in one of two spellings: polygons (x1, y1, x2, y2, ... each), or an RLE with its own size (H, W).

    extent: of the corners, or of the set pixels. None if the mask is empty.
    """

    polygons: list[list[float]] | None
    rle: dict[str, Any] | None
    extent: Extent | None

    @property
    def segmentation(self) -> Any:
        """The mask as in a COCO file."""
        return self.polygons if self.rle is None else {**self.rle, "counts": self.rle["counts"].decode("ascii")}


def box_of(value: Any) -> list[float] | None:
    """Return a box `x y w h` of four finite numbers. Texts that are numbers count. None for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        return None
    sides = [number(side) for side in value]
    return None if any(side is None for side in sides) else [side for side in sides if side is not None]


def extent_of_box(box: Sequence[float]) -> Extent:
    """Convert `x y w h` to an extent."""
    x, y, w, h = box
    return x, y, x + w, y + h


def box_of_extent(extent: Extent) -> list[float]:
    """Convert an extent to `x y w h`."""
    x1, y1, x2, y2 = extent
    return [x1, y1, x2 - x1, y2 - y1]


def overlap(one: Extent, other: Extent) -> float:
    """Return the IoU of two extents; 0 if one has no area."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, w) * max(0.0, h)
    area = sum(max(0.0, e[2] - e[0]) * max(0.0, e[3] - e[1]) for e in (one, other)) - both
    return both / area if area > 0 else 0.0


def outside(extent: Extent, height: int, width: int) -> float:
    """Return how far an extent leaves its frame, as the largest share of the frame's side; 0 if it is inside."""
    x1, y1, x2, y2 = extent
    return max(-x1 / width, x2 / width - 1, -y1 / height, y2 / height - 1, 0.0)


def beside(extent: Extent, height: int, width: int) -> bool:
    """Whether an extent and its frame have no pixel in common."""
    x1, y1, x2, y2 = extent
    return x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height


def clipped(extent: Extent, height: int, width: int) -> Extent:
    """Return the part of an extent that is inside its frame."""
    x1, y1, x2, y2 = extent
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def shape_of(segmentation: Any) -> Shape | str | None:
    """Read a mask in any spelling. None if there is none; a text says why a mask cannot be used."""
    if isinstance(segmentation, dict):
        return _shape_of_rle(segmentation) if segmentation.get("counts") else None
    if not isinstance(segmentation, list):
        return None if segmentation is None or segmentation == "" else "has a mask that is neither polygons nor RLE"
    if len(segmentation) == 1 and isinstance(segmentation[0], dict) and segmentation[0].get("counts"):
        return _shape_of_rle(segmentation[0])  # one RLE with a list around it
    polygons = polygons_of(segmentation)
    if isinstance(polygons, str):
        return polygons
    return Shape(polygons, None, extent_of_polygons(polygons)) if polygons else None


def polygons_of(segmentation: list[Any]) -> list[list[float]] | str:
    """Return the polygons of at least three corners as [x1, y1, x2, y2, ...] each, or why they cannot be used.

    A single polygon without a list around it and corners as pairs count. An empty list means no mask.
    """
    if any(isinstance(part, dict) for part in segmentation):
        return "has a mask that is neither polygons nor RLE"
    several = all(isinstance(part, list) for part in segmentation)
    # [[x, y], [x, y], [x, y], ...] is one polygon with its corners as pairs.
    if several and len(segmentation) > 2 and all(len(part) == 2 for part in segmentation):
        several = False
    found = []
    for polygon in segmentation if several else [segmentation]:
        if len(polygon) <= 4 and not isinstance((polygon or [0])[0], list):
            continue  # fewer than three corners have no area, and pycocotools reads four numbers as a box
        pairs = [isinstance(part, list) for part in polygon]
        if any(pairs) and not (all(pairs) and all(len(part) == 2 for part in polygon)):
            return "has an invalid polygon; expected [x1, y1, x2, y2, x3, y3, ...]"
        flat = [side for part in polygon for side in (part if isinstance(part, list) else [part])]
        flat = [int(side) if side is True or side is False else side for side in flat]
        numbers = [side for side in map(number, flat) if side is not None]
        if len(flat) < 6 or len(flat) % 2 or len(numbers) < len(flat):
            return "has an invalid polygon; expected [x1, y1, x2, y2, x3, y3, ...]"
        found.append(numbers if any(isinstance(side, str) for side in flat) else flat)
    return found


def extent_of_polygons(polygons: Sequence[Sequence[float]]) -> Extent | None:
    """Return the extent of polygons. None if they have no area."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    extent = (float(min(xs)), float(min(ys)), float(max(xs)), float(max(ys)))
    return extent if shoelace(polygons) > 0 else None


def shoelace(polygons: Sequence[Sequence[float]]) -> float:
    """Return the sum of the areas of polygons, in pixels."""
    total = 0.0
    for polygon in polygons:
        x, y = np.asarray(polygon[::2], dtype=np.float64), np.asarray(polygon[1::2], dtype=np.float64)
        x, y = x - x[0], y - y[0]  # far from the origin, the products would cancel
        total += abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    return total if math.isfinite(total) else math.inf


def _shape_of_rle(segmentation: dict[str, Any]) -> Shape | str:
    size, counts = segmentation.get("size"), segmentation["counts"]
    sides = [number(side) for side in size] if isinstance(size, (list, tuple)) else []
    if len(sides) != 2 or any(side is None or side != int(side) or not 0 < side < 1 << 20 for side in sides):
        return "has an RLE mask without a usable size; expected [height, width]"
    height, width = (int(side) for side in sides if side is not None)
    code = compressed(counts, height, width)
    return code if isinstance(code, str) else shape_of_code(code, height, width)


def shape_of_code(code: bytes, height: int, width: int) -> Shape:
    """Return the shape of a checked, compressed RLE."""
    rle = {"size": [height, width], "counts": code}
    x, y, w, h = coco_mask.toBbox(rle).tolist()
    return Shape(None, rle, (x, y, x + w, y + h) if w * h > 0 else None)


def compressed(counts: Any, height: int, width: int) -> bytes | str:
    """Return the counts of an RLE as compressed bytes, or why they do not make a mask of this size."""
    pixels = height * width
    if pixels >= MOST_PIXELS:
        return f"has an RLE mask of {height} x {width} pixels, more than an RLE can hold"
    if isinstance(counts, list):
        runs = [number(run) for run in counts]
        if any(run is None or run < 0 or run != int(run) for run in runs):
            return "has an RLE mask whose counts are not whole numbers"
        whole = [int(run) for run in runs if run is not None]
        if sum(whole) != pixels:
            return f"has an RLE mask whose counts do not add up to {height} x {width} pixels"
        return bytes(coco_mask.frPyObjects({"size": [height, width], "counts": whole}, height, width)["counts"])
    if not isinstance(counts, (str, bytes)):
        return "has an RLE mask whose counts are neither a list nor a text"
    try:
        code = counts.encode("ascii") if isinstance(counts, str) else counts
    except UnicodeEncodeError:
        return "has a broken RLE mask ('counts' cannot be decoded)"
    runs_of = decompressed(code)
    if runs_of is None:
        return "has a broken RLE mask ('counts' cannot be decoded)"
    if (runs_of < 0).any() or int(runs_of.sum()) != pixels:
        return f"has an RLE mask whose counts do not add up to {height} x {width} pixels"
    return code


def decompressed(code: bytes) -> np.ndarray | None:
    """Return the run lengths of a compressed RLE, i64 [n]. None if it is no such code.

    Each character holds five bits of a number, lowest first, and whether more follow. From the fourth run on, the
    number is the difference to the run before the last.
    """
    values = np.frombuffer(code, dtype=np.uint8).astype(np.int64) - 48
    if not len(values) or values.min() < 0 or values.max() > 63 or values[-1] & 0x20:
        return None
    last = np.flatnonzero(values & 0x20 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 7:  # 40 bits: no image has more pixels
        return None
    place = np.arange(len(values)) - np.repeat(first, last - first + 1)
    runs = np.add.reduceat((values & 0x1F) << (5 * place), first)
    runs -= np.where(values[last] & 0x10, np.int64(1) << (5 * (last - first + 1)), 0)
    for start in (1, 2):
        runs[start::2] = np.cumsum(runs[start::2])
    return runs


def bare_counts(segmentation: Any, pixels: int) -> list[int] | None:
    """Return the counts of an RLE that was written as a bare list: whole numbers that add up to the image's pixels."""
    if not isinstance(segmentation, list) or not segmentation or not all(type(n) is int for n in segmentation):
        return None
    return segmentation if min(segmentation) >= 0 and sum(segmentation) == pixels else None
