"""The pictures a run leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


def spread(ids: Iterable[ImageId], limit: int | None) -> list[ImageId]:
    """The targets that are shown: `limit` of them, evenly over the split; None: all."""
    every = list(ids)
    if limit is None or limit >= len(every):
        return every
    rows = np.linspace(0, len(every) - 1, limit).round().astype(int)
    return list(dict.fromkeys(every[row] for row in rows))


def draw_references(data: Data, references: Sequence[Sequence[Record]], note: str | None) -> Image.Image:
    """The references on one sheet, a row a class; note: stands at the top, if given (random weights)."""
    split, rows = data.references, []
    for label, per_class in enumerate(references[:MAX_CLASSES]):
        shown = [(split.read(split.images[r["image_id"]]), split.mask(r), label) for r in per_class[:MAX_SHOTS]]
        rows.append((data.classes[label], shown))
    return reference_sheet(rows, note or "References")


class Gallery:
    """Overlays of the targets that are shown, and of the references.

    limit: of `spread`. note: stands on every picture, if given (random weights).
    """

    def __init__(self, folder: Path, data: Data, limit: int | None, score_threshold: float, note: str | None) -> None:
        self.folder, self.data, self.score_threshold, self.note = folder, data, score_threshold, note
        self.chosen = spread(data.targets.images, limit)

    def draw_references(self, references: Sequence[Sequence[Record]]) -> None:
        """One sheet; none where no target is shown."""
        if self.chosen:
            self._save(draw_references(self.data, references, self.note), REFERENCES)

    def draw_targets(self, by_image: Mapping[ImageId, Detections]) -> None:
        """Each of the chosen targets: ground truth left, prediction right. Only these images are read."""
        for image_id in self.chosen:
            self._draw_target(image_id, by_image[image_id])

    def _draw_target(self, image_id: ImageId, detections: Detections) -> None:
        split, classes = self.data.targets, self.data.classes
        rgb = split.read(split.images[image_id])
        truth = [
            Instance(split.mask(a), split.labels[a["category_id"]], classes[split.labels[a["category_id"]]])
            for a in split.by_image[image_id]
            if has_mask(a)
        ]
        found, shown = self._found(detections)
        captions = (f"ground truth, {image_id}", f"prediction, {shown}  {self.note or ''}")
        self._save(side_by_side(draw(rgb, truth), draw(rgb, found), captions), overlay_name(image_id))

    def _found(self, detections: Detections) -> tuple[list[Instance], str]:
        """The detections of a score that is high enough, and how many of how many these are."""
        kept, classes = detections.above(self.score_threshold), self.data.classes
        found = [
            Instance(mask, label, f"{classes[label]} {score:.2f}")
            for mask, label, score in zip(kept.masks, kept.labels.tolist(), kept.scores.tolist(), strict=True)
        ]
        return found, f"{len(found)} of {len(detections)} with score >= {self.score_threshold:g}"

    def _save(self, picture: Image.Image, name: str) -> None:
        with atomic_path(self.folder / name) as path:
            picture.save(path, quality=88)


class PredictionGallery(Gallery):
    """Overlays of targets without annotations: the prediction alone, under the image's own name."""

    def _draw_target(self, image_id: ImageId, detections: Detections) -> None:
        split, (found, shown) = self.data.targets, self._found(detections)
        picture = draw(split.read(split.images[image_id]), found)
        self._save(with_caption(picture, f"{self.note or ''} {shown}".strip()), overlay_name(image_id))


def overlay_name(image: ImageId) -> str:
    """The path of an image's overlay, a JPEG; never that of the sheet of references."""
    name = as_path(image)
    name = name if name.endswith(".jpg") else f"{name}.jpg"
    return f"_{name}" if name == REFERENCES else name
