"""What a run leaves on disk beside its pictures, in formats that other tools read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from refexp.data.coco import Data, Record
from refexp.masks import boxes_xywh
from refexp.types import Detections


def references_to_coco(references: Sequence[Sequence[Record]], data: Data) -> dict[str, Any]:
    """The chosen references as a plain COCO dict (a repeated one stands once), readable by `FileSampler`."""
    chosen = {reference["id"]: reference for per_class in references for reference in per_class}.values()
    image_ids = dict.fromkeys(reference["image_id"] for reference in chosen)
    return {
        "images": [data.references.images[image_id] for image_id in image_ids],
        "annotations": list(chosen),
        "categories": data.references.categories(data.classes),
    }


def detections_to_coco(detections: Sequence[Detections], data: Data) -> list[dict[str, Any]]:
    """COCO results: image id, category id of the targets file, box `x y w h`, score, compressed RLE."""
    category = {label: id_ for id_, label in data.targets.labels.items()}
    return [
        {
            "image_id": found.image_id,
            "category_id": category[int(label)],
            "bbox": box.tolist(),
            "score": float(score),
            "segmentation": {"size": list(mask["size"]), "counts": mask["counts"].decode()},
        }
        for found in detections
        for label, score, box, mask in zip(
            found.labels, found.scores, boxes_xywh(found.masks), found.masks, strict=True
        )
    ]
