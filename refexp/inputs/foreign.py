"""References in the forms of other tools, as COCO content: Pascal VOC, YOLO and LabelMe.

What is checked for COCO files is not checked here, because this content goes through the same door.
"""

from __future__ import annotations

import base64
import io
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_mask

from refexp.errors import RefexpError
from refexp.inputs.geometry import SLACK, extent_of_polygons, outside
from refexp.inputs.images import upright_size
from refexp.inputs.kinds import HEAD
from refexp.inputs.refusals import check_pixels
from refexp.inputs.repairs import repaired
from refexp.inputs.texts import decoded, read_bytes, read_json, read_text
from refexp.inputs.values import is_true, number, whole
from refexp.masks import encode, to_json

Marks = list[tuple[str, dict[str, Any]]]
"""The objects of one image: the name of the class, and the fields of a COCO annotation with the box or the mask."""
Annotated = Iterator[tuple[Path, int, int, Marks]]
"""Image files with their width and height, and their objects."""

YOLO_NAMES = ("*.yaml", "*.yml", "classes.txt", "obj.names", "*.names")
CORNERS_OF_CIRCLE = 64


def coco_files(files: Iterable[Path]) -> list[Path]:
    """Return the COCO files among some files: JSON with the lists images, annotations and categories."""
    lists = {"images", "annotations", "categories"}
    contents = ((path, _json_or_none(path)) for path in _named(files, ".json"))
    return [path for path, content in contents if isinstance(content, dict) and lists <= content.keys()]


def read_foreign(folder: Path, files: Sequence[Path], photographs: Sequence[Path]) -> dict[str, Any] | None:
    """Return the references in a folder as unchecked COCO content. File names are relative to the folder.

    files: all files below the folder. photographs: the images among them. None if there are no references in these
    forms. Raises RefexpError if they are in several forms, or with the file that lacks something.
    """
    images = Images(photographs)
    found = {form: list(read(folder, files, images)) for form, read in FORMS.items()}
    forms = [form for form, annotated in found.items() if annotated]
    if len(forms) > 1:
        raise RefexpError(f"{folder} holds references in several forms: {', '.join(forms)}; keep those of one form.")
    return content_of(folder, found[forms[0]]) if forms else None


def content_of(folder: Path, annotated: Iterable[tuple[Path, int, int, Marks]]) -> dict[str, Any]:
    """Make COCO content of annotated images. Ids of images are their names; classes come in the order of the files."""
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for image, width, height, marks in annotated:
        name = image.relative_to(folder).as_posix()
        images[name] = {"id": name, "file_name": name, "width": width, "height": height}
        for label, fields in marks:
            category = categories.setdefault(label, len(categories) + 1)
            annotations.append({"id": len(annotations) + 1, "image_id": name, "category_id": category, **fields})
    return {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for name, id_ in categories.items()],
    }


class Images:
    """Finds the image of an annotation file: the one with the written name, else the one with the file's own name."""

    def __init__(self, photographs: Iterable[Path]) -> None:
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for path in photographs:
            for name in (path.name, path.stem):
                self.by_name[name].append(path)

    def of(self, path: Path, written: Any = None) -> Path | None:
        """Return the image. Where several have its name, it is the one whose folders are most alike.

        Notes a file without an image as left out. Raises RefexpError if two images are equally near.
        """
        name = PurePosixPath(written.replace("\\", "/")).name if isinstance(written, str) else ""
        found = self.by_name.get(name) or self.by_name.get(path.stem) or []
        nearest = sorted(found, key=lambda image: -_alike(image.parent.parts, path.parent.parts))
        if not nearest:
            repaired("annotation file left out, because its image is not there", str(path))
            return None
        if len(nearest) > 1 and len({_alike(image.parent.parts, path.parent.parts) for image in nearest[:2]}) == 1:
            raise RefexpError(f"{path} can belong to {nearest[0]} or {nearest[1]}; keep one of them.")
        return nearest[0]


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many folders two paths have in common at the start and at the end."""
    ways = (zip(one, other, strict=False), zip(reversed(one), reversed(other), strict=False))
    return sum(next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs)) for pairs in map(list, ways))


def _named(files: Iterable[Path], suffix: str) -> list[Path]:
    return [path for path in files if path.suffix.lower() == suffix]


def _json_or_none(path: Path) -> Any:
    try:
        return read_json(path)
    except RefexpError:
        return None


def _size(width: Any, height: Any, image: Path, path: Path) -> tuple[int, int]:
    """Return the width and height that an annotation file gives, or those of the image if it gives none.

    Raises RefexpError if they are not the image's, upright or not: the annotations then have another scale.
    """
    given, upright = (whole(width) or 0, whole(height) or 0), upright_size(image)
    if min(given) <= 0:
        return upright
    if sorted(given) != sorted(upright):
        raise RefexpError(
            f"{path} was made on {given[0]} x {given[1]} pixels, but {image} has {upright[0]} x {upright[1]}; "
            "use the image on which the annotations were made."
        )
    return given


# --- Pascal VOC


def from_voc(folder: Path, files: Sequence[Path], images: Images) -> Annotated:
    """Read XML files whose root is `<annotation>`: boxes. Difficult objects count as crowds, as in `refexp data`."""
    for path in _named(files, ".xml"):
        root = parse_xml(path)
        if root.tag != "annotation" or (image := images.of(path, root.findtext("filename"))) is None:
            continue
        marks: Marks = []
        for element in root.iterfind("object"):
            box: list[float] | None = None  # the door leaves the object out, or refuses the file if most are so
            with suppress(RefexpError):
                left, top, right, bottom = voc_corners(element, path)
                left, top = (0.0 if side == -1 else side for side in (left, top))  # some tools count from 0
                box = [left, top, right - left, bottom - top]
            if name := (element.findtext("name") or "").strip():
                marks.append((name, {"bbox": box, "iscrowd": int(is_difficult(element))}))
            else:
                repaired("VOC object without a name left out", str(path))
        yield image, *_size(root.findtext("size/width"), root.findtext("size/height"), image, path), marks


def parse_xml(path: Path) -> ElementTree.Element:
    """Read an XML file without a document type.

    VOC files have none, and refusing it prevents entity attacks (such as "billion laughs").
    Raises RefexpError for a file that is missing, invalid or has a document type.
    """
    data = read_bytes(path, "annotation file")
    declared = re.match(rb"\s*<\?xml[^>]*encoding=[\"']([\w.-]+)", data[:HEAD])
    try:
        text = decoded(data, path)
    except RefexpError:
        if not declared:
            raise
        try:
            text = data.decode(declared[1].decode())
        except (LookupError, UnicodeError):
            raise RefexpError(f"{path} is not in the encoding that it declares; save it as UTF-8.") from None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise RefexpError(f"{path} declares a document type, but VOC annotations have none; refexp does not read it.")
    try:
        return ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise RefexpError(f"{path} is not valid XML ({error}); unpack or export it again.") from None


def voc_corners(element: ElementTree.Element, path: Path) -> tuple[float, float, float, float]:
    """Convert VOC's first and last pixel, counted from 1, to x1, y1, x2, y2, counted from 0."""
    x1, y1, x2, y2 = (number_in(element, f"bndbox/{corner}", path) for corner in ("xmin", "ymin", "xmax", "ymax"))
    return x1 - 1, y1 - 1, x2, y2


def number_in(element: ElementTree.Element, tag: str, path: Path) -> float:
    """Return the number in an element. Raises RefexpError with the file if there is none."""
    text = element.findtext(tag)
    value = number(text)
    if value is None:
        raise RefexpError(f"{path}: <{tag}> must hold a number, not {text!r}.")
    return value


def is_difficult(element: ElementTree.Element) -> bool:
    """Whether VOC does not count an object: neither a missed one nor a detection of one counts as an error."""
    return is_true(element.findtext("difficult"))


# --- YOLO


def from_yolo(folder: Path, files: Sequence[Path], images: Images) -> Annotated:
    """Read text files of lines `class x y w h` (boxes) or `class x1 y1 x2 y2 x3 y3 ...` (polygons), in fractions."""
    labels = [path for path in _named(files, ".txt") if any(_numbers(line) for line in _lines(path))]
    names, pose = _yolo_names(folder, files) if labels else ({}, False)
    for path in labels:
        if (image := images.of(path)) is None:
            continue
        width, height = upright_size(image)
        marks: Marks = []
        for position, line in enumerate(_lines(path), start=1):
            where = f"{path}, line {position}"
            row = _numbers(line)[: 5 if pose else None]
            if not row and line.strip():
                repaired("YOLO line left out, because it is not a class and at least four numbers", where)
            if not row:
                continue
            if (label := names.get(int(row[0]))) is None:
                raise RefexpError(
                    f"{where}: class {row[0]:g} has no name; add it to data.yaml or classes.txt in {folder}."
                )
            if not all(-0.1 <= value <= 1.1 for value in row[1:]):
                raise RefexpError(f"{where}: coordinates must be fractions of the image's sides.")
            marks.append((label, _yolo_shape(row[1:], width, height)))
        yield image, width, height, marks


def _lines(path: Path) -> list[str]:
    """Return the lines of a text file; none if it is not text. Files of other kinds end in .txt, too."""
    try:
        return read_text(path).rstrip().splitlines()
    except RefexpError:
        return []


def _numbers(line: str) -> list[float]:
    """Return the numbers of a label's line, [] for any other line."""
    values = [number(word) for word in line.split()]
    row = [value for value in values if value is not None]
    return row if len(row) == len(values) > 4 and row[0] >= 0 and row[0] == int(row[0]) else []


def _yolo_shape(values: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """Return the box or polygon of a line. An odd last number is a confidence."""
    if len(values) < 6:
        x, y, w, h = values[:4]
        return {"bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    pairs = zip(values[::2], values[1::2], strict=False)
    return {"segmentation": [[side for x, y in pairs for side in (x * width, y * height)]]}


def _yolo_names(folder: Path, files: Sequence[Path]) -> tuple[dict[int, str], bool]:
    """Return the class names by number, and whether the labels have key points. Looks beside the folder, too."""
    nearest = sorted(files, key=lambda path: len(path.parts)) + sorted(folder.absolute().parent.glob("*.*"))
    for pattern in YOLO_NAMES:
        for path in (path for path in nearest if path.match(pattern)):
            content = _yaml(path) if path.suffix in (".yaml", ".yml") else {"names": _lines(path)}
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, list):
                names = dict(enumerate(names))
            if isinstance(names, dict) and names:
                named = {whole(key): str(name).strip() for key, name in names.items()}
                return {key: name for key, name in named.items() if key is not None and name}, "kpt_shape" in content
    return {}, False


def _yaml(path: Path) -> Any:
    try:
        return yaml.load(read_text(path), yaml.BaseLoader)  # texts only: a class can have the name "no"
    except (yaml.YAMLError, RefexpError, RecursionError, ValueError):
        return None  # it may belong to anything


# --- LabelMe


def from_labelme(folder: Path, files: Sequence[Path], images: Images) -> Annotated:
    """Read JSON files with a list of shapes. Shapes of one group and label are one object."""
    for path in _named(files, ".json"):
        content = _json_or_none(path)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            continue
        if (image := images.of(path, content.get("imagePath"))) is None:
            continue
        width, height = _size(content.get("imageWidth"), content.get("imageHeight"), image, path)
        groups: dict[Any, list[Any]] = {}
        for position, shape in enumerate(content["shapes"]):
            if not isinstance(shape, dict) or not str(shape.get("label") or "").strip():
                repaired("LabelMe shape without a label left out", f"{path}, shape {position + 1}")
                continue
            group = shape.get("group_id")
            label = str(shape["label"]).strip()
            groups.setdefault((label, position if group is None else f"group {group}"), []).append(shape)
        marks = [(label, fields) for (label, _), shapes in groups.items() if (fields := _fields(shapes, width, height))]
        if len(marks) < len(groups):
            repaired("LabelMe shape without an area left out", str(path), len(groups) - len(marks))
        yield image, width, height, marks


def _fields(shapes: Sequence[dict[str, Any]], width: int, height: int) -> dict[str, Any]:
    """Return the fields of an object: its box if it is one rectangle, else its mask. {} without an area."""
    parts = [mask for shape in shapes if (mask := _labelme_mask(shape, width, height)) is not None]
    polygons = [polygon for shape in shapes if (polygon := _labelme_polygon(shape))]
    if parts:
        near = [p for p in polygons if (e := extent_of_polygons([p])) and outside(e, height, width) <= SLACK]
        codes = encode(np.stack(parts)) + (coco_mask.frPyObjects(near, height, width) if near else [])
        return {"segmentation": to_json(coco_mask.merge(codes))}
    if not polygons:
        return {}
    if len(shapes) == 1 and shapes[0].get("shape_type") == "rectangle":
        xs, ys = polygons[0][::2], polygons[0][1::2]
        return {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]}
    return {"segmentation": polygons}


def _labelme_polygon(shape: dict[str, Any]) -> list[float]:
    """Return x1, y1, x2, y2, ... of a polygon, rectangle or circle; [] for points and lines."""
    points, kind = _points(shape), shape.get("shape_type") or "polygon"
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        turns = np.linspace(0, 2 * math.pi, CORNERS_OF_CIRCLE, endpoint=False)
        radius = math.dist((x, y), edge)
        points = list(zip((x + radius * np.cos(turns)).tolist(), (y + radius * np.sin(turns)).tolist(), strict=True))
    elif kind == "rectangle" and len(points) == 2:
        (x1, y1), (x2, y2) = points
        points = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    elif kind not in ("polygon", "rectangle", "oriented_rectangle"):
        return []
    return [side for point in points for side in point] if len(points) > 2 else []


def _points(shape: dict[str, Any]) -> list[tuple[float, float]]:
    """Return the points of a shape; [] if one of them is not two numbers."""
    points = shape.get("points")
    found = []
    for point in points if isinstance(points, list) else []:
        sides = [number(side) for side in point] if isinstance(point, list) else []
        if len(sides) != 2 or sides[0] is None or sides[1] is None:
            return []
        found.append((sides[0], sides[1]))
    return found


def _labelme_mask(shape: dict[str, Any], width: int, height: int) -> np.ndarray | None:
    """Return the mask of a shape that holds it as a PNG, placed at its first point. None without one that is read."""
    if shape.get("shape_type") != "mask":
        return None
    points = _points(shape)
    try:
        stored = Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True)))
        check_pixels("this mask", stored.size)
        part = np.asarray(stored.convert("RGB")).max(axis=2) > 0
        x, y = (round(side) for side in points[0])
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, RefexpError):
        return None
    mask = np.zeros((height, width), dtype=bool)
    part = part[max(-y, 0) : max(height - y, 0), max(-x, 0) : max(width - x, 0)]
    x, y = max(x, 0), max(y, 0)
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return mask if mask.any() else None


FORMS: dict[str, Callable[[Path, Sequence[Path], Images], Annotated]] = {
    "Pascal VOC": from_voc,
    "YOLO": from_yolo,
    "LabelMe": from_labelme,
}
