"""Overlay pictures: targets with annotations and detections, and one sheet with the references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from refexp.data.coco import Data
from refexp.files import as_path, atomic_path
from refexp.show.instances import annotated, detected
from refexp.show.overlays import draw, reference_sheet, side_by_side, with_caption
from refexp.types import Detections, ImageId, Reference

MAX_CLASSES = 40
MAX_SHOTS = 10
REFERENCES = "references.jpg"


def spread(ids: Iterable[ImageId], limit: int | None) -> list[ImageId]:
    """Choose `limit` targets to show, evenly spaced over the split. None: all."""
    every = list(ids)
    if limit is None or limit >= len(every):
        return every
    rows = np.linspace(0, len(every) - 1, limit).round().astype(int)
    return list(dict.fromkeys(every[row] for row in rows))


def draw_references(folder: Path, data: Data, references: Sequence[Sequence[Reference]], note: str | None) -> None:
    """Draw the references on one sheet, one row per class. note: printed at the top if given (random weights)."""
    split, rows = data.references, []
    for label, per_class in enumerate(references[:MAX_CLASSES]):
        shown = [(split.read(split.images[r.image_id]), r.known_mask, label) for r in per_class[:MAX_SHOTS]]
        rows.append((data.classes[label], shown))
    save(reference_sheet(rows, note or "References"), folder / REFERENCES)


def draw_targets(
    folder: Path, data: Data, detections: Iterable[Detections], score_threshold: float, note: str | None
) -> None:
    """Draw the detections of these targets, with the ground truth on the left where there is one.

    note: printed on every picture if given (random weights). Reads only the images of these targets.
    """
    for found in detections:
        rgb = data.targets.read(data.targets.images[found.image_id])
        kept = detected(found.above(score_threshold))
        counts = f"{len(kept)} of {len(found)} with score >= {score_threshold:g}"
        picture = draw(rgb, [replace(one, text=f"{data.classes[one.label]} {one.score:.2f}") for one in kept])
        if data.targets.annotations:
            truth = [replace(one, text=data.classes[one.label]) for one in annotated(data.targets, found.image_id)]
            captions = (f"ground truth, {found.image_id}", f"prediction, {counts}  {note or ''}")
            picture = side_by_side(draw(rgb, truth), picture, captions)
        else:
            picture = with_caption(picture, f"{note or ''} {counts}".strip())
        save(picture, folder / overlay_name(found.image_id))


def save(picture: Image.Image, path: Path) -> None:
    """Write a JPEG atomically."""
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=88)


def overlay_name(image: ImageId) -> str:
    """The path of an image's overlay (JPEG). It never collides with the sheet of references."""
    name = as_path(image)
    name = name if name.endswith(".jpg") else f"{name}.jpg"
    return f"_{name}" if name == REFERENCES else name
