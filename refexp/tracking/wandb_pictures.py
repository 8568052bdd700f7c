"""The pictures that Weights & Biases is sent: targets with masks and boxes to toggle, and the sheet of references."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from refexp.data.coco import Record, Split, has_mask
from refexp.masks import Rle, boxes_xywh, decode
from refexp.outcome import Outcome
from refexp.report.gallery import draw_references, spread
from refexp.types import Detections, ImageId

SIDE = 1024
"""Longer side of a picture that is sent."""
MAX_IDS = 127
"""Classes that a mask can tell apart: W&B stores them as signed bytes."""


@dataclass(frozen=True)
class Thing:
    """One thing in an image: its class index, its box `x y w h` in pixels, its mask; of a detection the score, too."""

    label: int
    box: Sequence[float]
    mask: Rle | None
    score: float | None = None


@dataclass(frozen=True)
class Canvas:
    """How a target is shown. size: (width, height); scale: to it from the image; ids: W&B's numbers of the classes."""

    size: tuple[int, int]
    scale: float
    ids: dict[int, int]
    names: dict[int, str]

    def layer(self, things: Sequence[Thing]) -> dict[str, Any]:
        """A mask and boxes that are shown and hidden together, class by class."""
        shown = [thing for thing in things if thing.label in self.ids]
        return {"mask": encode(self.label_map(shown), "PNG"), "boxes": [*map(self.box, shown)], "names": self.names}

    def label_map(self, things: Sequence[Thing]) -> Image.Image:
        """Things, the best first, painted over each other with the best on top; 0 is background."""
        canvas = np.zeros(self.size[::-1], dtype=np.uint8)
        for thing in reversed(things):
            if thing.mask is not None:
                mask = Image.fromarray(decode([thing.mask])[0]).resize(self.size, Image.Resampling.NEAREST)
                canvas[np.asarray(mask)] = self.ids[thing.label]
        return Image.fromarray(canvas)

    def box(self, thing: Thing) -> dict[str, Any]:
        """A box as W&B takes it, in pixels of the picture that is sent."""
        x, y, w, h = (side * self.scale for side in thing.box)
        number = self.ids[thing.label]
        sent = {
            "position": {"minX": round(x), "maxX": round(x + w), "minY": round(y), "maxY": round(y + h)},
            "domain": "pixel",
            "class_id": number,
            "box_caption": self.names[number],
        }
        if thing.score is None:
            return sent
        caption = f"{self.names[number]} {thing.score:.2f}"
        return sent | {"box_caption": caption, "scores": {"score": thing.score}}


def targets(outcome: Outcome, limit: int) -> list[dict[str, Any]]:
    """`limit` targets, spread evenly over the split: image and caption, and layers of ground truth and prediction.

    Detections below vis.score_threshold are left out, as in the overlays.
    """
    split, threshold = outcome.data.targets, outcome.config["vis"]["score_threshold"]
    chosen = spread(split.images, limit)
    found = {detections.image_id: detections for detections in outcome.detections}
    layers = {image_id: {"prediction": _detected(found[image_id].above(threshold))} for image_id in chosen}
    if split.annotations:
        for image_id in chosen:
            layers[image_id]["ground truth"] = [_annotated(a, split) for a in split.by_image[image_id]]
    present = {thing.label for of_image in layers.values() for things in of_image.values() for thing in things}
    ids = _ids(present, len(outcome.data.classes))
    return [_target(outcome, image_id, of_image, ids) for image_id, of_image in layers.items()]


def _target(outcome: Outcome, image_id: ImageId, layers: dict[str, list[Thing]], ids: dict[int, int]) -> dict[str, Any]:
    split = outcome.data.targets
    picture = Image.fromarray(split.read(split.images[image_id]))
    scale = min(1.0, SIDE / max(picture.size))
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    names = {number: outcome.data.classes[label] for label, number in ids.items()}
    canvas = Canvas(picture.size, scale, ids, names)
    return {
        "image": encode(picture, "JPEG"),
        "caption": f"{image_id}  {outcome.note or ''}".strip(),
        "layers": {name: canvas.layer(things) for name, things in layers.items()},
    }


def _annotated(annotation: Record, split: Split) -> Thing:
    mask = split.mask(annotation) if has_mask(annotation) else None
    return Thing(split.labels[annotation["category_id"]], annotation["bbox"], mask)


def _detected(detections: Detections) -> list[Thing]:
    boxes, scores = boxes_xywh(detections.masks).tolist(), detections.scores.tolist()
    rows = zip(detections.labels.tolist(), boxes, detections.masks, scores, strict=True)
    return [Thing(*row) for row in rows]


def _ids(present: set[int], classes: int) -> dict[int, int]:
    """A number from 1 for each class, or for each present if there are too many: one numbering for all pictures."""
    labels = range(classes) if classes <= MAX_IDS else sorted(present)[:MAX_IDS]
    return {label: number for number, label in enumerate(labels, start=1)}


def references(outcome: Outcome) -> str:
    """The references on one sheet, a row a class."""
    return encode(draw_references(outcome.data, outcome.references, outcome.note), "JPEG")


def encode(picture: Image.Image, kind: Literal["JPEG", "PNG"]) -> str:
    """A picture as text, for a message."""
    file = io.BytesIO()
    picture.save(file, kind, quality=90)
    return base64.b64encode(file.getvalue()).decode()
