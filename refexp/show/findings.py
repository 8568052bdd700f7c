"""Detections as a table and as PNG masks for other programs: `summary` and `masks` of task=predict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refexp.files import as_file_name, as_path, atomic_path, write_csv, write_text
from refexp.masks import areas, decode
from refexp.show.harmless import harmless
from refexp.show.instances import Instance


def write_summary(path: Path, found: Sequence[Instance], classes: Sequence[str]) -> None:
    """Write the detections as CSV or JSON, by path.suffix. Numbers start at 1 in each image, highest score first."""
    sizes = areas([one.mask for one in found if one.mask]).tolist()
    rows = [
        (one.image_id, one.row + 1, classes[one.label], round(one.score or 0.0, 4), list(one.box), area)
        for one, area in zip(found, sizes, strict=True)
    ]
    if path.suffix == ".json":
        columns = ("image", "number", "class", "score", "box", "area")
        lines = [json.dumps(dict(zip(columns, row, strict=True)), allow_nan=False) for row in rows]
        write_text(path, "[" + ",\n ".join(lines) + "]\n")
        return
    header = ("image", "number", "class", "score", "x", "y", "width", "height", "area")
    write_csv(path, [header, *((*first, *box, area) for *first, box, area in rows)])


def write_masks(folder: Path, found: Sequence[Instance], classes: Sequence[str]) -> None:
    """Write one PNG per detection, at the size of its image: 255 on the object, 0 elsewhere.

    Files are named `<image>/<number>_<class>.png`.
    """
    for path in folder.glob("**/[0-9][0-9][0-9]*_*.png"):  # of another threshold
        path.unlink()
    for one in found:
        # A class name may hold characters that a file name must not.
        name = "".join(c if c.isalnum() or c in "-_. " else "_" for c in classes[one.label])
        number = f"{one.row + 1:03d}"
        with harmless(f"mask {number} of {one.image_id}"):
            picture = Image.fromarray(decode([one.mask])[0].astype(np.uint8) * 255)  # type: ignore[list-item]
            with atomic_path(folder / as_path(one.image_id) / f"{as_file_name(f'{number}_{name}')}.png") as path:
                picture.save(path)
