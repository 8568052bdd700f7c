"""What a run leaves on disk for other tools and, where there is nothing to compare with, for a person to look at."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from refexp.data.coco import Data, Record
from refexp.files import atomic_path, write_text
from refexp.masks import areas, boxes_xywh, decode
from refexp.report.gallery import Gallery
from refexp.report.overlays import TEXT, Instance, draw
from refexp.types import Detections, ImageId, Rle

SummaryFormat = Literal["csv", "json"]


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


def as_path(image: ImageId) -> str:
    """An image id as the path of an output: folders stay, and it cannot lead out of the output's folder."""
    return "/".join("_" if part in ("", ".", "..") else part for part in str(image).split("/"))


def overlay_name(image: str) -> str:
    """The path of an image's overlay, a JPEG."""
    name = as_path(image)
    return name if name.endswith(".jpg") else f"{name}.jpg"


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
        self._save(picture, overlay_name(str(image_id)))


def with_caption(picture: Image.Image, caption: str) -> Image.Image:
    """A picture under a line of text."""
    band = 24
    sheet = Image.new("RGB", (picture.width, picture.height + band), "white")
    sheet.paste(picture, (0, band))
    ImageDraw.Draw(sheet).text((4, 4), caption, fill="black", font=ImageFont.load_default(size=TEXT + 1))
    return sheet


def print_findings(
    found: Sequence[Finding], references: Mapping[str, int], images: int, output: Path, note: str | None
) -> None:
    """How many of each class were found, and where the files are. references: how many each class had."""
    console = Console(soft_wrap=True)
    table = Table(title=f"{images} image{'' if images == 1 else 's'}", title_justify="left")
    for column in ("", "references", "found", "in images"):
        table.add_column(column, justify="right" if column else "left")
    things = Counter(f.name for f in found)
    places = Counter(name for name, _ in {(f.name, f.image) for f in found})
    for name, count in references.items():
        table.add_row(escape(name), str(count), str(things[name]), str(places[name]))
    console.print(table)
    console.print(f"[green]results in[/] {escape(str(output))}")
    if note:
        console.print(f"[bold red]{escape(note)}[/]")
