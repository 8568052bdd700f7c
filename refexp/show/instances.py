"""Instances to draw, crop, list or send: annotated objects and detections of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refexp.data.coco import Split, has_mask
from refexp.masks import Rle, boxes_xywh
from refexp.types import Detections, ImageId


@dataclass(frozen=True)
class Instance:
    """An object in an image.

    row: index among the image's annotations (in file order) or among its detections (highest score first).
    label: class index. box: `x y w h` in pixels. mask: None where only a box is annotated. score: None for an
    annotated object. text: the caption to draw on it or below it.
    """

    image_id: ImageId
    row: int
    label: int
    box: Sequence[float]
    mask: Rle | None
    score: float | None = None
    text: str = ""


def annotated(split: Split, image_id: ImageId) -> list[Instance]:
    """The annotated objects of an image, including crowds, in file order."""
    return [
        Instance(
            image_id, row, split.labels[a["category_id"]], a["bbox"], split.mask(a) if has_mask(a) else None
        )
        for row, a in enumerate(split.by_image[image_id])
    ]  # fmt: skip


def detected(found: Detections) -> list[Instance]:
    """The detections of an image, highest score first."""
    boxes = boxes_xywh(found.masks).tolist()
    rows = zip(found.labels.tolist(), boxes, found.masks, found.scores.tolist(), strict=True)
    return [Instance(found.image_id, row, *values) for row, values in enumerate(rows)]


def window(box_xywh: Sequence[float], size: tuple[int, int], least: int) -> tuple[int, int, int, int]:
    """A square crop window around a box, `x1 y1 x2 y2` in whole pixels.

    Its side is 1.5 times the longer side of the box, and at least `least` pixels. The window is shifted to lie inside
    the image of `size` = (H, W), and cut where the image is narrower.
    """
    x, y, w, h = box_xywh
    side = int(max(1.5 * max(w, h), least))
    window = []
    for centre, limit in ((x + w / 2, size[1]), (y + h / 2, size[0])):
        length = min(side, limit)
        start = int(min(max(0.0, centre - side / 2), limit - length))
        window.append((start, start + length))
    (x1, x2), (y1, y2) = window
    return x1, y1, x2, y2
