"""Overlay pictures: targets with annotations and detections, and one sheet with the references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from refexp.data.coco import Data
from refexp.files import as_path, write_picture
from refexp.show.fonts import captions, fitted
from refexp.show.harmless import harmless
from refexp.show.instances import annotated, detected
from refexp.show.overlays import NAME, TEXT, draw, reference_sheet, thumbnail, with_captions
from refexp.types import Detections, ImageId, Reference

MAX_CLASSES = 40
MAX_SHOTS = 10
QUALITY = 88
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
    split, names, rows = data.references, captions(data.classes), []
    for label, per_class in enumerate(references[:MAX_CLASSES]):
        pictures = []
        for reference in per_class[:MAX_SHOTS]:
            record = split.images[reference.image_id]
            with harmless(f"the reference in {record['file_name']}"):
                pictures.append(thumbnail(split.read(record), reference.known_mask, label))
        rows.append((names[label], pictures))
    write_picture(folder / REFERENCES, reference_sheet(rows, note or "References"), quality=QUALITY)


def draw_targets(
    folder: Path, data: Data, detections: Iterable[Detections], score_threshold: float, note: str | None
) -> None:
    """Draw the detections of these targets, with the ground truth on the left where there is one.

    note: printed on every picture if given (random weights). Reads only the images of these targets.
    """
    names = [fitted(name, TEXT, NAME) for name in captions(data.classes)]
    for found in detections:
        record = data.targets.images[found.image_id]
        with harmless(f"the overlay of {record['file_name']}"):
            picture = draw_target(data, data.targets.read(record), found, score_threshold, names, note or "")
            write_picture(folder / overlay_name(found.image_id), picture, quality=QUALITY)


def draw_target(
    data: Data, rgb: np.ndarray, found: Detections, score_threshold: float, names: Sequence[str], note: str
) -> Image.Image:
    """Draw one target, u8 [H, W, 3], as `draw_targets` does."""
    kept = detected(found.above(score_threshold))
    counts = f"{len(kept)} of {len(found)} with score >= {score_threshold:g}"
    picture = draw(rgb, [replace(one, text=f"{names[one.label]} {one.score:.2f}") for one in kept])
    if not data.targets.annotations:
        return with_captions((picture, f"{note} {counts}".strip()))
    truth = [replace(one, text=names[one.label]) for one in annotated(data.targets, found.image_id)]
    return with_captions(
        (draw(rgb, truth), f"ground truth, {found.image_id}"), (picture, f"prediction, {counts}  {note}")
    )


def overlay_name(image: ImageId) -> str:
    """The path of an image's overlay (JPEG). It never collides with the sheet of references."""
    name = as_path(image)
    name = name if name.endswith(".jpg") else f"{name}.jpg"
    return f"_{name}" if name == REFERENCES else name
