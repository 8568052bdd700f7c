"""Write synthetic scenes as files, in the same layout as a user's own references and photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refexp.data.folder import MASK
from refexp.data.rendering import CLASSES, render_split
from refexp.data.sampling import Shots
from refexp.errors import RefexpError, did_you_mean
from refexp.files import write_json, write_picture, write_text
from refexp.masks import decode

LABEL = "SYNTHETIC: drawn by `refexp data synthetic`. Results on these images say nothing about photos.\n"


def write_folder(folder: Path, classes: Sequence[str], references: int, photos: int, seed: int) -> dict[str, Any]:
    """Write refs/<class>/ with images and masks, photos/, photos.json (annotations of the photos) and SYNTHETIC.txt.

    references: images per class. Returns the content of photos.json. Raises RefexpError for an unknown class.
    """
    for name in classes:
        if name not in CLASSES:
            raise RefexpError(f"unknown class '{name}'. {did_you_mean(name, CLASSES)}")
    write_text(folder / "SYNTHETIC.txt", LABEL)
    # Draw more scenes than needed: one in twelve is empty, and not every instance is a valid reference.
    pictures, content = render_split(seed, classes, 2 * references * len(classes) + 12, "references")
    for label, name in enumerate(classes):
        chosen = _references(content, label + 1)[:references]
        for number, annotation in enumerate(chosen, start=1):
            stem = folder / "refs" / name / f"{number}"
            write_picture(stem.with_suffix(".png"), Image.fromarray(pictures[annotation["image_id"] - 1]))
            mask = decode([annotation["segmentation"]])[0].astype(np.uint8) * 255
            write_picture(stem.with_name(stem.name + MASK), Image.fromarray(mask))
    pictures, content = render_split(seed, classes, photos, "targets")
    for record, picture in zip(content["images"], pictures, strict=True):
        record["file_name"] = f"scene_{record['id']:02d}.jpg"
        write_picture(folder / "photos" / record["file_name"], Image.fromarray(picture), quality=95, subsampling=0)
    write_json(folder / "photos.json", content | {"info": {"description": LABEL.strip()}})
    return content


def _references(content: dict[str, Any], category: int) -> list[dict[str, Any]]:
    """Choose instances of a class as a person would: valid references, one per image, the largest first."""
    images, shots = {image["id"]: image for image in content["images"]}, Shots(1)
    found: dict[int, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        if annotation["category_id"] == category and shots.may_serve(annotation, image):
            found.setdefault(image["id"], annotation)
    return sorted(found.values(), key=lambda annotation: -annotation["area"])
