"""What a run leaves on disk for other tools: references, detections, and lists and masks of what was found."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from refexp.data.coco import Data, Record
from refexp.files import as_path, atomic_path, write_text
from refexp.masks import Rle, areas, boxes_xywh, decode
from refexp.types import Detections, ImageId

SummaryFormat = Literal["csv", "json"]

RESULTS = (
    "metrics.json", "detections.json", "diagnostics.json", "report.html", "memory_bank.png", "WEIGHTS.txt",
    "summary.csv", "summary.json", "metrics.csv", "per_class.csv", "report/*/*.js*", "report/*/*.jpg", "report/*.js",
    "overlays/**/*.jpg", "masks/**/[0-9][0-9][0-9]_*.png",
)  # fmt: skip
"""Files that some runs leave and others do not."""


def remove_results(output: Path) -> None:
    """Remove what an earlier run left in this folder, lest it be taken for this run's; of other folders nothing."""
    if not ((output / "config.yaml").is_file() and (output / "references.json").is_file()):
        return
    for pattern in RESULTS:
        for path in output.glob(pattern):
            path.unlink()


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
    return [row for found in detections for row in found.to_coco(category)]


@dataclass(frozen=True)
class Finding:
    """One thing found: in which image, as what, how surely, its box `x y w h` and area in pixels, its mask.

    number: counts an image's findings from 1, the best first.
    """

    image: ImageId
    number: int
    name: str
    score: float
    box: list[float]
    area: int
    mask: Rle

    @property
    def mask_file(self) -> str:
        """`<image>/<number>_<class>.png`; the class as far as it can stand in a file name."""
        name = "".join(c if c.isalnum() or c in "-_. " else "_" for c in self.name)
        return f"{as_path(self.image)}/{self.number:03d}_{name}.png"


def findings(detections: Sequence[Detections], classes: Sequence[str], score_threshold: float) -> list[Finding]:
    """What was found with at least this score, image by image."""
    found = []
    for of_image in detections:
        kept = of_image.above(score_threshold)
        names = [classes[label] for label in kept.labels.tolist()]
        boxes, sizes = boxes_xywh(kept.masks).tolist(), areas(kept.masks).tolist()
        rows = zip(names, kept.scores.tolist(), boxes, sizes, kept.masks, strict=True)
        found += [Finding(kept.image_id, number, *row) for number, row in enumerate(rows, start=1)]
    return found


def write_summary(path: Path, found: Sequence[Finding]) -> None:
    """The findings as a table: path.suffix says whether as CSV or as JSON."""
    if path.suffix == ".json":
        columns = ("image", "number", "class", "score", "box", "area")
        values = [(f.image, f.number, f.name, round(f.score, 4), f.box, f.area) for f in found]
        rows = [json.dumps(dict(zip(columns, row, strict=True)), allow_nan=False) for row in values]
        write_text(path, "[" + ",\n ".join(rows) + "]\n")
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "number", "class", "score", "x", "y", "width", "height", "area"])
    writer.writerows([f.image, f.number, f.name, round(f.score, 4), *f.box, f.area] for f in found)
    write_text(path, text.getvalue())


def write_masks(folder: Path, found: Sequence[Finding]) -> None:
    """A PNG as large as its image for each finding: 255 on the thing, 0 elsewhere."""
    for finding in found:
        picture = Image.fromarray(decode([finding.mask])[0].astype(np.uint8) * 255)
        with atomic_path(folder / finding.mask_file) as path:
            picture.save(path)
