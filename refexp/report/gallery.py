"""The pictures a run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refexp.data.coco import Data, Record, has_mask
from refexp.files import as_path, atomic_path
from refexp.report.overlays import Instance, draw, reference_sheet, side_by_side, with_caption
from refexp.types import Detections, ImageId

MAX_CLASSES = 40
MAX_SHOTS = 10
REFERENCES = "references.jpg"


class Gallery:
    """Overlays of `limit` targets spread evenly over the split, and of the references.

    note: stands on every picture, if given (random weights).
    """

    def __init__(self, folder: Path, data: Data, limit: int, score_threshold: float, note: str | None) -> None:
        self.folder, self.data, self.score_threshold, self.note = folder, data, score_threshold, note
        ids = list(data.targets.images)
        chosen = np.linspace(0, len(ids) - 1, min(limit, len(ids))).round().astype(int)
        self.chosen = list(dict.fromkeys(ids[i] for i in chosen))

    def draw_references(self, references: Sequence[Sequence[Record]]) -> None:
        """One sheet: a row a class, a column a reference."""
        if not self.chosen:
            return
        split, rows = self.data.references, []
        for label, per_class in list(enumerate(references))[:MAX_CLASSES]:
            shown = [(split.read(split.images[r["image_id"]]), split.mask(r), label) for r in per_class[:MAX_SHOTS]]
            rows.append((self.data.classes[label], shown))
        self._save(reference_sheet(rows, self.note or "References"), REFERENCES)

    def draw_targets(self, by_image: Mapping[ImageId, Detections]) -> None:
        """Each of the chosen targets: ground truth left, prediction right. Only these images are read."""
        for image_id in self.chosen:
            self._draw_target(image_id, by_image[image_id])

    def _draw_target(self, image_id: ImageId, detections: Detections) -> None:
        split, classes = self.data.targets, self.data.classes
        rgb = split.read(split.images[image_id])
        truth = [
            Instance(split.mask(a), split.labels[a["category_id"]], classes[split.labels[a["category_id"]]])
            for a in split.annotations
            if a["image_id"] == image_id and has_mask(a)
        ]
        found = [
            Instance(mask, int(label), f"{classes[int(label)]} {score:.2f}")
            for mask, label, score in zip(detections.masks, detections.labels, detections.scores, strict=True)
            if score >= self.score_threshold
        ]
        left, right = draw(rgb, truth), draw(rgb, found)
        shown = f"prediction, {len(found)} of {len(detections)} with score >= {self.score_threshold:g}"
        captions = (f"ground truth, {image_id}", f"{shown}  {self.note or ''}")
        self._save(side_by_side(left, right, captions), overlay_name(image_id))

    def _save(self, picture: Image.Image, name: str) -> None:
        with atomic_path(self.folder / name) as path:
            picture.save(path, quality=88)


class PredictionGallery(Gallery):
    """Overlays of targets without annotations: the prediction alone, under the image's own name."""

    def _draw_target(self, image_id: ImageId, detections: Detections) -> None:
        kept, classes = detections.above(self.score_threshold), self.data.classes
        found = [
            Instance(mask, label, f"{classes[label]} {score:.2f}")
            for mask, label, score in zip(kept.masks, kept.labels.tolist(), kept.scores.tolist(), strict=True)
        ]
        split = self.data.targets
        caption = f"{self.note or ''} {len(found)} of {len(detections)} with score >= {self.score_threshold:g}"
        picture = with_caption(draw(split.read(split.images[image_id]), found), caption.strip())
        self._save(picture, overlay_name(image_id))


def overlay_name(image: ImageId) -> str:
    """The path of an image's overlay, a JPEG; never that of the sheet of references."""
    name = as_path(image)
    name = name if name.endswith(".jpg") else f"{name}.jpg"
    return f"_{name}" if name == REFERENCES else name
