"""Any JSON value in any place of a COCO file, and any bytes as a file: a right result, a repair, or a one-line refusal.

PROPERTY_EXAMPLES=20000 tries more of them.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image

from refexp.data.coco import annotation_rle, has_mask
from refexp.data.reference_files import read_references
from refexp.errors import RefexpError
from refexp.inputs.frames import FileSize
from refexp.inputs.images import open_upright, read_rgb, upright_size
from refexp.inputs.records import check_coco
from refexp.inputs.repairs import collecting
from refexp.inputs.texts import read_json
from refexp.masks import decode, to_json

MANY = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "150")), deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
SQUARE = [[10, 10, 30, 10, 30, 25, 10, 25]]
RLE = to_json(annotation_rle({"segmentation": SQUARE}, 40, 60))
COCO = {
    "images": [{"id": k, "file_name": f"{k}.jpg", "width": 60, "height": 40} for k in (1, 2)],
    "annotations": [
        {"id": k, "image_id": 1 + k % 2, "category_id": 1, "bbox": [10, 10, 20, 15], "area": 300, "iscrowd": 0} | mask
        for k, mask in enumerate(
            [{"segmentation": SQUARE}, {"segmentation": RLE}, {}, {"segmentation": SQUARE},
             {"segmentation": {"size": [40, 60], "counts": [100, 50, 2250]}}]
        )
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}  # fmt: skip
NUMBERS = (
    some.integers() | some.floats(allow_nan=False) | some.sampled_from([0, 1, -1, 2**31, 2**63, 10**30, 5e7, 1e308])
)
VALUES = some.recursive(
    some.none() | some.booleans() | NUMBERS | some.text(max_size=6),
    lambda inner: some.lists(inner, max_size=8) | some.dictionaries(some.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def places(content: object, path: tuple = ()) -> list[tuple]:
    """All places in a JSON value, as paths of keys."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in inside for place in places(value, (*path, key)))]


def put(content: object, path: tuple, value: object) -> object:
    if not path:
        return value
    content[path[0]] = put(content[path[0]], path[1:], value)
    return content


def one_line(error: RefexpError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 600


@MANY
@given(some.data())
def test_any_value_in_any_place_of_a_coco_file(data):
    content = copy.deepcopy(COCO)
    for _ in range(data.draw(some.integers(1, 3))):
        content = put(content, data.draw(some.sampled_from(places(content))), data.draw(VALUES))
    try:
        with collecting():
            check_coco(content, "f.json", lambda name: FileSize((40, 60), (40, 60)))
    except RefexpError as error:
        return one_line(error)
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    for annotation in content["annotations"]:
        image = images[annotation["image_id"]]
        size = image["height"], image["width"]
        assert annotation["category_id"] in categories
        assert all(type(side) is int and side > 0 for side in size)
        x, y, w, h = annotation["bbox"]
        assert math.isfinite(x + y + w + h)
        assert w >= 0 <= h
        assert annotation["iscrowd"] in (0, 1)
        assert annotation.get("area", 1) > 0
        if has_mask(annotation):
            mask = annotation_rle(annotation, *size)
            if math.prod(size) < 1 << 20:
                assert decode([mask]).shape == (1, *size)


@MANY
@given(some.binary(max_size=60) | some.text(max_size=30).map(lambda text: text.encode("utf-16")) | VALUES.map(
    lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_as_a_text_file(content):
    with tempfile.TemporaryDirectory() as folder:
        for name, read in (("a.json", read_json), ("a.txt", lambda path: read_references(path, 1))):
            (Path(folder) / name).write_bytes(content)
            try:
                read(Path(folder) / name)
            except RefexpError as error:
                one_line(error)


def encoded(kind: str) -> bytes:
    """A small photograph in this format."""
    rgb = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(file, kind, **({"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}))
    return file.getvalue()


PHOTOGRAPHS = {kind: encoded(kind) for kind in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")}


@pytest.mark.filterwarnings("ignore")
@MANY
@given(some.data())
def test_any_bytes_as_an_image(data):
    content = bytearray(PHOTOGRAPHS[data.draw(some.sampled_from(sorted(PHOTOGRAPHS)))])
    for _ in range(data.draw(some.integers(0, 8))):
        # Most interesting bytes are those of the header.
        place = data.draw(some.integers(0, min(len(content) - 1, 200)) | some.integers(0, len(content) - 1))
        content[place] = data.draw(some.integers(0, 255))
    content = content[: data.draw(some.just(len(content)) | some.integers(0, len(content)))]
    with tempfile.TemporaryDirectory() as folder, collecting():
        path = Path(folder) / "a.jpg"
        path.write_bytes(content)
        try:
            width, height = upright_size(path)
            rgb = read_rgb(path, height, width)
            assert (rgb.shape, rgb.dtype) == ((height, width, 3), np.uint8)
            assert open_upright(path).size == (width, height)
        except RefexpError as error:
            one_line(error)


def test_a_tiff_whose_width_is_no_number(tmp_path):
    content = bytearray(PHOTOGRAPHS["TIFF"])
    content[14] = 0
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(RefexpError):
        upright_size(tmp_path / "a.tif")
