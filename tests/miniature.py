"""Miniature data roots: the published data sets' directory layout and file formats with a handful of drawn images.

Every class of COCO, VOC and LVIS's miniature occurs, `COPIES` times in the part that references come from, each time in
another image, and every instance passes the paper's filter (32 px, 10 px from the border).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from refexp.datatools import lvis_files as lvis_tool
from refexp.datatools import voc as voc_tool
from refexp.files import write_json

WIDTH, HEIGHT, CELL, MARGIN = 320, 240, 80, 20
PER_IMAGE = (WIDTH // CELL) * (HEIGHT // CELL)
COPIES = 2

COCO_CATEGORIES = [
    {"id": id_, "name": name}
    for id_, name in enumerate(MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"])
    if name not in ("__background__", "N/A")
]
LVIS_CATEGORIES = [
    {"id": id_, "name": f"{frequency}_{id_}", "frequency": frequency, "synset": f"{frequency}_{id_}.n.01"}
    for id_, frequency in enumerate("rcfrcf", start=1)
]
PERSON = 15
CDFSOD_CATEGORIES = {
    folder: [{"id": id_, "name": f"{folder} {id_}"} for id_ in range(1, classes + 1)]
    for folder, classes in (("ArTaxOr", 7), ("clipart1k", 20), ("DIOR", 20), ("FISH", 1), ("NEU-DET", 6), ("UODD", 3))
}
CDFSOD_SUBFOLDERS = {"DIOR": ("train/new_train", "test/new_test")}
CDFSOD_FEW = 3


def draw(path: Path, categories: Iterable[int]) -> list[tuple[int, list[int]]]:
    """Write an image with one instance for each of at most 12 categories; category id and COCO box of each."""
    noise = np.random.default_rng(zlib.crc32(path.stem.encode())).integers(90, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    image, found = Image.fromarray(noise), []
    for place, category in enumerate(categories):
        x, y = (place % (WIDTH // CELL)) * CELL + MARGIN, place // (WIDTH // CELL) * CELL + MARGIN
        side = CELL - 2 * MARGIN
        colour = (37 * category % 256, 91 * category % 256, 151 * category % 256)
        ImageDraw.Draw(image).ellipse((x, y, x + side - 1, y + side - 1), fill=colour)
        found.append((category, [x, y, side, side]))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return found


def images_of(categories: Sequence[int]) -> list[Sequence[int]]:
    """Each category once, on as few images as hold them."""
    return [categories[start : start + PER_IMAGE] for start in range(0, len(categories), PER_IMAGE)]


def split(
    folder: Path, categories: Sequence[dict], first_id: int, shown: Iterable[Sequence[int]], masks: bool = True
) -> dict[str, Any]:
    """Draw an image into `folder` for each entry of `shown`; the COCO content, file names of twelve digits."""
    content: dict[str, Any] = {"info": {}, "images": [], "annotations": [], "categories": list(categories)}
    for image, instances in enumerate(shown, start=first_id):
        name = f"{image:012d}.jpg"
        content["images"].append({"id": image, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for category, (x, y, w, h) in draw(folder / name, instances):
            record = {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            if masks:
                record["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            content["annotations"].append({"id": 1000 * first_id + len(content["annotations"]), **record})
    return content


def coco(root: Path) -> None:
    """coco/: train2017 and val2017 of all 80 classes."""
    for part, first_id, copies in (("train2017", 1, COPIES), ("val2017", 100, 1)):
        content = split(root / "coco" / part, COCO_CATEGORIES, first_id, images_of(ids(COCO_CATEGORIES)) * copies)
        write_json(root / f"coco/annotations/instances_{part}.json", content)


def lvis(root: Path) -> None:
    """lvis/: as published, without file names; the val part has images of train2017 and val2017. They go to coco/."""
    train, val, shown = root / "coco/train2017", root / "coco/val2017", images_of(ids(LVIS_CATEGORIES))
    references = as_lvis(split(train, LVIS_CATEGORIES, 200, shown * COPIES), "train2017")
    write_json(root / "lvis/lvis_v1_train.json", references)
    own = as_lvis(split(val, LVIS_CATEGORIES, 300, shown), "val2017")
    others = as_lvis(split(train, LVIS_CATEGORIES, 400, shown), "train2017")
    both = {part: others[part] + own[part] for part in ("images", "annotations")}
    write_json(root / "lvis/lvis_v1_val.json", {**own, **both})
    for image in own["images"]:
        image["file_name"] = image["coco_url"].split("org/")[1]
    for annotation in own["annotations"]:
        del annotation["segmentation"]
    write_json(root / "lvis/lvis_v1_minival_inserted_image_name.json", own)


def as_lvis(content: dict[str, Any], part: str) -> dict[str, Any]:
    """COCO content as LVIS publishes it."""
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/{part}/{image.pop('file_name')}"
        image |= {"neg_category_ids": [1], "not_exhaustive_category_ids": [2]}
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    return content


def voc(root: Path) -> None:
    """voc/VOCdevkit: VOC2007 trainval and test, VOC2012 trainval, with one number that both years have."""
    devkit = root / "voc/VOCdevkit"
    voc_part(devkit / "VOC2007", "trainval", ["000005", "000007"])
    voc_part(devkit / "VOC2007", "test", ["000001", "000002"])
    voc_part(devkit / "VOC2012", "trainval", ["2007_000005", "2008_000008"])


def voc_part(year: Path, image_set: str, names: Sequence[str]) -> None:
    """Two images hold the 20 classes, ten each; an eleventh object of the second one, a person, is difficult."""
    halves = [list(range(1, 11)), [*range(11, 21), PERSON]]
    for name, categories in zip(names, halves, strict=True):
        found = draw(year / f"JPEGImages/{name}.jpg", categories)
        objects = [
            voc_object(voc_tool.CLASSES[category - 1], box, difficult=place == 10)
            for place, (category, box) in enumerate(found)
        ]
        write(year / f"Annotations/{name}.xml", voc_xml("".join(objects)))
    write(year / f"ImageSets/Main/{image_set}.txt", "\n".join(names) + "\n")


def voc_object(name: str, box: Sequence[float], difficult: bool = False) -> str:
    """A COCO box as VOC writes it: first and last pixel, counted from 1. With a part, as people have in VOC."""
    x, y, w, h = box
    corners = {"xmax": x + w, "xmin": x + 1, "ymax": y + h, "ymin": y + 1}  # VOC's files keep no order
    bndbox = "".join(f"<{tag}>{value}</{tag}>" for tag, value in corners.items())
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    return (
        f"<object><name>{name}</name>{part}<difficult>{int(difficult)}</difficult><bndbox>{bndbox}</bndbox></object>\n"
    )


def voc_xml(objects: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>\n{size}\n{objects}</annotation>\n"


def cdfsod(root: Path) -> None:
    """cdfsod/: the six sets of CD-FSOD as unpacked, with boxes only.

    The first class has two instances in each image that shows it, the last of several `CDFSOD_FEW` in all.
    """
    for position, (name, categories) in enumerate(CDFSOD_CATEGORIES.items(), start=1):
        folder = root / "cdfsod" / name
        train, test = (folder / part for part in CDFSOD_SUBFOLDERS.get(name, ("train", "test")))
        first, *others = ids(categories)
        shown = images_of([first, first, *others]) * CDFSOD_FEW
        shown += images_of([first, first, *others[:-1]]) * (10 - CDFSOD_FEW)
        content = split(train, categories, 1000 * position, shown, masks=False)
        write_json(folder / "annotations/train.json", content)
        for shots in (1, 5, 10):
            write_json(folder / f"annotations/{shots}_shot.json", shot_list(content, shots))
        content = split(test, categories, 1000 * position + 500, images_of(ids(categories)), masks=False)
        write_json(folder / "annotations/test.json", content)


def shot_list(content: dict[str, Any], shots: int) -> dict[str, Any]:
    """The first instances of each class, with their images."""
    listed = [
        annotation
        for id_ in ids(content["categories"])
        for annotation in [a for a in content["annotations"] if a["category_id"] == id_][:shots]
    ]
    images = {annotation["image_id"] for annotation in listed}
    return {**content, "images": [i for i in content["images"] if i["id"] in images], "annotations": listed}


def convert(root: Path) -> None:
    """What refexp data makes of VOC's and LVIS's files."""
    folder = root / "lvis"
    convert_voc(root)
    for part in ("train", "val"):
        write_json(folder / f"lvis_v1_{part}_refexp.json", lvis_tool.convert(folder / f"lvis_v1_{part}.json"))
    listed = folder / "lvis_v1_minival_inserted_image_name.json"
    write_json(folder / "lvis_v1_minival_refexp.json", lvis_tool.minival(folder / "lvis_v1_val.json", listed))


def convert_voc(root: Path) -> None:
    """What refexp data makes of VOC's files."""
    devkit = root / "voc/VOCdevkit"
    write_json(root / "voc/voc07_test.json", voc_tool.convert(devkit, [2007], "test"))
    write_json(root / "voc/voc0712_trainval.json", voc_tool.convert(devkit, [2007, 2012], "trainval"))


def whole(root: Path) -> None:
    """Every data set, ready to run."""
    for build in (coco, lvis, voc, cdfsod, convert):
        build(root)


def ids(records: Iterable[dict[str, Any]]) -> list[int]:
    return [record["id"] for record in records]


def names(records: Iterable[dict[str, Any]]) -> list[str]:
    return [record["name"] for record in records]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
