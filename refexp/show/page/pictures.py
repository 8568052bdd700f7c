"""What the report page shows of images: pictures, their masks as layers over them, crops, references."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refexp.data.coco import Record, has_mask
from refexp.files import atomic_path, write_text
from refexp.masks import boxes_xywh
from refexp.outcome import Outcome
from refexp.progress import track
from refexp.report.gallery import MAX_CLASSES, MAX_SHOTS
from refexp.report.overlays import colour
from refexp.report.page_errors import VERDICTS, ImageErrors, Shown
from refexp.report.page_images import box_path, crop, mask_path, page_picture, page_size
from refexp.types import Detections, ImageId

LAYERS = 50
"""Detections of an image that the page holds, the best; what lies below is in detections.json."""


def write_part(folder: Path, name: str, content: Any) -> None:
    """Data that the page loads when it needs it: a script, since a page opened from a folder may read nothing else."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    write_text(folder / f"{name}.js", f"refexpPart({json.dumps(name)},{text});\n")


def save(picture: Image.Image, path: Path) -> dict[str, Any]:
    """Write a JPEG; what the template needs to show it."""
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=85, optimize=True)
    return {"file": path.name, "width": picture.width, "height": picture.height}


def write_images(
    outcome: Outcome,
    folder: Path,
    ids: Sequence[ImageId],
    errors: dict[ImageId, ImageErrors],
    shown: Sequence[Sequence[Shown]],
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """The pictures, their layers and the crops, each image being read once; the template's records of both."""
    targets = outcome.data.targets
    found = {detections.image_id: detections for detections in outcome.detections}
    images: list[dict[str, Any]] = []
    crops: list[list[dict[str, Any]]] = [[{}] * len(row) for row in shown]
    for number, image_id in enumerate(track(ids, len(ids), "report")):
        record = targets.images[image_id]
        rgb = targets.read(record)
        picture = save(page_picture(rgb), folder / "images" / f"{number}.jpg")
        layers = layers_of(outcome, found[image_id], targets.by_image[image_id], errors.get(image_id))
        write_part(folder, f"layers/{number}", layers)
        best: dict[int, float] = {}
        for layer in layers["found"]:  # the best first
            best.setdefault(layer["c"], layer["s"])
        shows = {"truth": sorted({layer["c"] for layer in layers["truth"]}), "best": best}
        images.append({**picture, **shows, "name": record["file_name"], "found": len(found[image_id])})
        for row, items in enumerate(shown):
            for position, item in enumerate(items):
                if item.image_id == image_id:
                    path = folder / "crops" / f"{row}-{position}.jpg"
                    cut = cut_out(outcome, rgb, item, found[image_id], targets.by_image[image_id], path)
                    crops[row][position] = {**cut, "image": number}
    return images, crops


def layers_of(
    outcome: Outcome, found: Detections, truth: list[dict[str, Any]], errors: ImageErrors | None
) -> dict[str, Any]:
    """An image's masks for the page: class c, score s, path d, verdict j."""
    targets = outcome.data.targets
    judged = errors.judgement.kinds if errors else []
    layers: dict[str, Any] = {"total": len(found), "truth": [], "found": []}
    for row, annotation in enumerate(truth):
        record = targets.images[annotation["image_id"]]
        scale = page_size(record["height"], record["width"])[0] / record["height"]
        path = mask_path(targets.mask(annotation)) if has_mask(annotation) else box_path(annotation["bbox"], scale)
        verdict = {"j": VERDICTS.index(errors.of_truth[row])} if errors else {}
        layers["truth"].append({"c": targets.labels[annotation["category_id"]], "d": path} | verdict)
    for row in range(min(len(found), LAYERS)):
        verdict = {"j": VERDICTS.index(judged[row])} if errors else {}
        score = round(float(found.scores[row]), 4)
        layers["found"].append({"c": int(found.labels[row]), "s": score, "d": mask_path(found.masks[row])} | verdict)
    return layers


def cut_out(
    outcome: Outcome, rgb: np.ndarray, item: Shown, found: Detections, truth: Sequence[Record], path: Path
) -> dict[str, Any]:
    """Write the crop of a miss or a false positive; the template's record of it."""
    if item.is_truth:
        annotation = truth[item.row]
        box, mask = annotation["bbox"], outcome.data.targets.mask(annotation) if has_mask(annotation) else None
    else:
        mask = found.masks[item.row]
        box = boxes_xywh([mask])[0].tolist()
    picture = save(crop(rgb, box, mask, colour(item.label)), path)
    key = f"{'t' if item.is_truth else 'f'}{item.row}"
    return {**picture, "show": key, "name": outcome.data.classes[item.label], "text": item.text}


def write_references(outcome: Outcome, folder: Path) -> list[dict[str, Any]]:
    """Crops of the references, at most MAX_SHOTS of MAX_CLASSES classes; the template's record of each class."""
    split, classes = outcome.data.references, outcome.data.classes
    shown = [per_class[:MAX_SHOTS] for per_class in outcome.references[:MAX_CLASSES]]
    wanted: dict[ImageId, list[tuple[int, int]]] = {}
    for label, per_class in enumerate(shown):
        for position, reference in enumerate(per_class):
            wanted.setdefault(reference["image_id"], []).append((label, position))
    crops: list[list[Any]] = [[None] * len(per_class) for per_class in shown]
    for image_id, places in wanted.items():
        rgb = split.read(split.images[image_id])
        for label, position in places:
            reference = shown[label][position]
            mask = split.mask(reference)
            box = boxes_xywh([mask])[0].tolist()
            picture = save(crop(rgb, box, mask, colour(label)), folder / f"{label}-{position}.jpg")
            alt = f"{classes[label]} in {split.images[image_id]['file_name']}"
            crops[label][position] = {**picture, "alt": alt}
    return [{"name": classes[label], "colour": css(label), "crops": per_class} for label, per_class in enumerate(crops)]


def css(label: int) -> str:
    """A class's colour as style sheets write it."""
    return "#{:02x}{:02x}{:02x}".format(*colour(label))
