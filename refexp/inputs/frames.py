"""The frame of each image, and what leaves it: sizes, boxes, masks and areas of annotations are settled against it.

The width and height of an image come from its annotation file. The image file decides where they are missing, and where
an annotation leaves them: its EXIF rotation swaps the sides for some programs and not for others. The frame is the one
that holds all coordinates.

Most annotations are sound: `suspects` compares a whole file with arrays. Only the others are looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from refexp.errors import RefexpError, shown
from refexp.inputs import geometry
from refexp.inputs.geometry import Extent, Shape, box_of, box_of_extent, clipped, extent_of_box, shape_of
from refexp.inputs.refusals import Unreadable
from refexp.inputs.repairs import repaired
from refexp.inputs.values import number

Record = dict[str, Any]
Size = tuple[int, int]
"""Height and width in pixels."""

CHUNK = 20_000
"""Annotations compared at once. Bounds the memory of `suspects`."""
PIXEL = 1.5
"""Coordinates may leave their frame by this many pixels, as many programs write them. They are not changed."""
SAME_BOX, SAME_AREA = 0.5, 2.0
"""A written box contradicts its mask below this IoU, a written area beyond this factor."""
SAME_ASPECT = 0.01
"""Two sizes are of the same picture if their aspect ratios differ by at most this share."""
CONTRADICTION = "width and height contradict the image file, which was believed"
"""A repair that may be found out only when the image is opened."""


class FileSize(NamedTuple):
    """The size of an image file (H, W): as its pixels are stored, and after its EXIF rotation."""

    stored: Size
    upright: Size


Look = Callable[[str], FileSize | None]
"""Reads the size of the image file with this file_name. None if there is no such file, or it cannot be read."""

LeaveOut = Callable[[str, Record], None]


def settle_geometry(
    annotations: list[Record], images: Mapping[Any, Record], source: str, look: Look | None, leave_out: LeaveOut
) -> list[Record]:
    """Settle sizes, boxes, masks and areas in place. Returns the annotations that are kept.

    Cost: a few array operations per annotation, and a closer look at those that are unusual.
    """
    odd = {position for start in range(0, len(annotations), CHUNK) for position in suspects(annotations, images, start)}
    lacking = {id_ for id_, image in images.items() if image["width"] is None or image["height"] is None}
    if not odd and not lacking:
        return annotations
    shapes = {position: read_shape(annotations[position], images) for position in sorted(odd)}
    settle_sizes(annotations, shapes, images, lacking, source, look)
    if seem_corners([annotations[position] for position, shape in shapes.items() if shape is None], images):
        raise RefexpError(f"{source}: its boxes seem to be [x1, y1, x2, y2]; COCO's are [x, y, width, height].")
    check_masks(shapes, annotations, source)
    fractions = are_fractions(annotations, shapes, images)
    kept = []
    for position, annotation in enumerate(annotations):
        why = None
        if position in odd:
            why = settle(annotation, shapes[position], images[annotation["image_id"]], source, fractions)
        if why is None:
            kept.append(annotation)
        else:
            leave_out(why, annotation)
    return kept


def suspects(annotations: Sequence[Record], images: Mapping[Any, Record], start: int) -> list[int]:
    """Return the positions, from `start` on, of annotations that need a closer look: all but sound polygons and boxes.

    Sound means: numbers only, inside the frame, with an area, and box and area as the polygons say.
    """
    chunk = annotations[start : start + CHUNK]
    plain = [position for position, one in enumerate(chunk) if _is_plain(one, images[one["image_id"]])]
    try:
        box = np.array([chunk[position]["bbox"] for position in plain])
        polygons = [chunk[position]["segmentation"] for position in plain]
        counts = np.array([len(polygon) for polygon in polygons], dtype=np.int64)
        lengths = np.array([len(corners) for corners in chain.from_iterable(polygons)], dtype=np.int64)
        flat = np.array(list(chain.from_iterable(chain.from_iterable(polygons))))
        written = np.array([chunk[position].get("area", np.nan) for position in plain])
    except (TypeError, ValueError, OverflowError):  # ragged boxes, corners or areas that are lists, huge numbers
        return list(range(start, start + len(chunk)))
    # Texts and nested lists would make another kind of array.
    if not plain or box.dtype.kind not in "if" or flat.dtype.kind not in "if" or flat.ndim > 1 or box.shape[1:] != (4,):
        return list(range(start, start + len(chunk)))
    even = np.minimum.reduceat((lengths % 2 == 0) & (lengths >= 6), np.cumsum(counts) - counts)
    if not even.all():  # an odd number of coordinates would shift x and y of all others
        return list(range(start, start + len(chunk)))
    frame = np.array([_frame(images[chunk[position]["image_id"]]) for position in plain], dtype=np.float64)
    numbers = written.dtype.kind in "if" and written.ndim == 1
    area = written.astype(np.float64) if numbers else np.full(len(plain), -1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # huge and missing numbers are not sound
        extent, inside = _extents(flat.astype(np.float64), lengths, counts)
        sound = _is_sound(extent, inside, box.astype(np.float64), area, frame)
    return sorted({*range(start, start + len(chunk))} - {start + plain[row] for row in np.flatnonzero(sound)})


def _is_plain(annotation: Record, image: Record) -> bool:
    """Whether an annotation has a box and a list of polygons, and its image a size. The values are not looked at."""
    segmentation, box = annotation.get("segmentation"), annotation.get("bbox")
    if type(segmentation) is not list or type(box) is not list or len(box) != 4 or not segmentation:
        return False
    for polygon in segmentation:
        if type(polygon) is not list or len(polygon) < 6:
            return False
    return image["width"] is not None and image["height"] is not None


def _frame(image: Record) -> Size:
    return image["height"], image["width"]


def _extents(flat: np.ndarray, lengths: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x1 y1 x2 y2, f64 [N, 4], and the sum of the polygons' areas, f64 [N], of N annotations.

    flat: all coordinates. lengths: coordinates of each polygon. counts: polygons of each annotation.
    """
    x, y = flat[0::2], flat[1::2]
    corners = lengths // 2
    first = np.cumsum(corners) - corners
    following = np.arange(1, len(x) + 1)
    following[first + corners - 1] = first
    x0, y0 = np.repeat(x[first], corners), np.repeat(y[first], corners)  # far from the origin, products would cancel
    cross = (x - x0) * (y[following] - y0) - (x[following] - x0) * (y - y0)
    areas = np.abs(np.add.reduceat(cross, first)) / 2
    group = np.cumsum(counts) - counts
    start = first[group]
    extent = np.stack(
        [np.minimum.reduceat(x, start), np.minimum.reduceat(y, start),
         np.maximum.reduceat(x, start), np.maximum.reduceat(y, start)], axis=1,
    )  # fmt: skip
    return extent, np.add.reduceat(areas, group)


def _is_sound(
    extent: np.ndarray, inside: np.ndarray, box: np.ndarray, area: np.ndarray, frame: np.ndarray
) -> np.ndarray:
    """Return which annotations need no closer look, bool [N]. area: as written, NaN where it is missing."""
    height, width = frame.T
    x1, y1, x2, y2 = extent.T
    bx, by, bw, bh = box.T
    within = (x1 >= -PIXEL) & (y1 >= -PIXEL) & (x2 <= width + PIXEL) & (y2 <= height + PIXEL)
    fraction = (x2 - x1 <= 1) & (y2 - y1 <= 1)
    w = np.minimum(x2, bx + bw) - np.maximum(x1, bx)
    h = np.minimum(y2, by + bh) - np.maximum(y1, by)
    both = np.maximum(w, 0) * np.maximum(h, 0)
    same = both >= SAME_BOX * ((x2 - x1) * (y2 - y1) + bw * bh - both)
    near = (area > 0) & (area <= SAME_AREA * inside) & (area * SAME_AREA >= inside)
    return within & ~fraction & (inside > 0) & (bw > 0) & (bh > 0) & same & (near | np.isnan(area))


def read_shape(annotation: Record, images: Mapping[Any, Record]) -> Shape | str | None:
    """Read an annotation's mask. A text says why it cannot be used; None means that there is none."""
    image = images[annotation["image_id"]]
    segmentation = annotation.get("segmentation")
    if image["width"] and image["height"]:
        # Polygons inside the frame stay polygons, although their numbers could add up to its pixels.
        counts = geometry.bare_counts(segmentation, image["height"] * image["width"])
        if counts is not None and (max(counts) > max(_frame(image)) or len(counts) % 2):
            return shape_of({"size": list(_frame(image)), "counts": counts})
    return shape_of(segmentation)


def settle_sizes(
    annotations: Sequence[Record],
    shapes: Mapping[int, Shape | str | None],
    images: Mapping[Any, Record],
    lacking: set[Any],
    source: str,
    look: Look | None,
) -> None:
    """Settle the frame of each image without a size, and of each image that an annotation leaves."""
    found: dict[Any, list[Shape]] = {id_: [] for id_ in lacking}
    for position, shape in shapes.items():
        shape = shape if isinstance(shape, Shape) else box_shape(annotations[position])
        if shape:
            found.setdefault(annotations[position]["image_id"], []).append(shape)
    missing = []
    for id_, of_image in found.items():
        image = images[id_]
        if id_ not in lacking and all(fits(shape, _frame(image)) for shape in of_image):
            continue
        file = look(image["file_name"]) if look else None
        if file is None and id_ in lacking:
            missing.append(image["file_name"])
        if file is not None:
            settle_size(image, file, of_image, source)
    if missing:
        raise RefexpError(
            f"{source}: {len(missing)} images have no usable width and height, and their files are not found or not "
            f"readable, first {shown(missing[0])}; check the folder of the images, or add width and height."
        )


def box_shape(annotation: Record) -> Shape | None:
    """Return the box of an annotation as a shape, for its extent. None if it is not a box."""
    box = box_of(annotation.get("bbox"))
    return Shape(None, None, extent_of_box(box)) if box and min(box[2:]) > 0 else None


def settle_size(image: Record, file: FileSize, shapes: Iterable[Shape], source: str) -> None:
    """Choose the frame of an image: the written size or the file's, stored or rotated, whichever holds all shapes."""
    shapes = list(shapes)
    written = _frame(image) if image["width"] and image["height"] else None
    holding = [size for size in (file.upright, file.stored) if all(fits(shape, size) for shape in shapes)]
    if written in (file.upright, file.stored) and (written in holding or not holding):
        return
    if written and shapes and written not in file and is_scaled(written, file) and _nearly_hold(written, shapes):
        return  # the annotations are of a larger or smaller picture: the image is refused when it is opened
    image["height"], image["width"] = holding[0] if holding else file.upright
    where = f"{source}, image {shown(image['file_name'])}"
    if written in (file.upright, file.stored):
        repaired("image turned by its EXIF rotation, because its annotations fit only so", where)
    elif written:
        repaired(CONTRADICTION, where)
    else:
        repaired("width and height taken from the image file", where)


def settle_contradiction(image: Record, file: FileSize, annotations: Sequence[Record], source: str) -> None:
    """Believe an image file whose size contradicts the written one, if it holds all annotations.

    Raises Unreadable if it does not, and for the same picture at another scale: the annotations are then of the other.
    """
    read = (shape_of(annotation.get("segmentation")) for annotation in annotations)
    shapes = [shape if isinstance(shape, Shape) else box_shape(a) for shape, a in zip(read, annotations, strict=True)]
    drawn = [shape for shape in shapes if shape]
    height, width = _frame(image)
    scaled = bool(drawn) and is_scaled((height, width), file)
    if scaled or not any(all(fits(shape, size) for shape in drawn) for size in file):
        h, w = file.upright
        reason = f"it has {w} x {h} pixels, but its annotations say {width} x {height}"
        raise Unreadable(image["file_name"], reason, "use the image on which the annotations were made")
    settle_size(image, file, drawn, source)


def is_scaled(written: Size, file: FileSize) -> bool:
    """Whether a written size can be that of the same picture as the file's."""
    height, width = written
    return any(abs(width * h - height * w) <= SAME_ASPECT * width * h for h, w in file)


def _nearly_hold(size: Size, shapes: Iterable[Shape]) -> bool:
    """Whether a frame (H, W) holds all shapes but for a little that is clipped."""
    drawn = [shape for shape in shapes if shape.extent]
    return not any(far(shape, size) or (shape.rle and not fits(shape, size)) for shape in drawn)


def fits(shape: Shape, size: Size) -> bool:
    """Whether a frame (H, W) holds a shape. An RLE fits only a frame of its own size."""
    if shape.rle is not None:
        return tuple(shape.rle["size"]) == size
    if shape.extent is None:
        return True
    x1, y1, x2, y2 = shape.extent
    return min(x1, y1) >= -PIXEL and x2 <= size[1] + PIXEL and y2 <= size[0] + PIXEL


def far(shape: Shape, size: Size) -> bool:
    """Whether a shape leaves a frame (H, W) by more than a little, or lies beside it."""
    assert shape.extent is not None
    too_far = geometry.outside(shape.extent, *size) > geometry.SLACK and not fits(shape, size)
    return too_far or geometry.beside(shape.extent, *size)


def seem_corners(annotations: Sequence[Record], images: Mapping[Any, Record]) -> bool:
    """Whether boxes without masks leave their frames as `x y w h`, but are all inside as `x1 y1 x2 y2`."""
    known = [a for a in annotations if images[a["image_id"]]["width"] and images[a["image_id"]]["height"]]
    boxes = [(box, _frame(images[a["image_id"]])) for a in known if (box := box_of(a.get("bbox")))]
    boxes = [(box, size) for box, size in boxes if min(box[2:]) > 0]  # others have no area in either reading
    inside = all(x2 > x1 >= 0 and y2 > y1 >= 0 and x2 <= w + 1 and y2 <= h + 1 for (x1, y1, x2, y2), (h, w) in boxes)
    return inside and any(geometry.outside(extent_of_box(box), *size) > geometry.SLACK for box, size in boxes)


def check_masks(shapes: Mapping[int, Shape | str | None], annotations: Sequence[Record], source: str) -> None:
    """Raise RefexpError if more than half of the annotations have a mask that cannot be used."""
    broken = {position: why for position, shape in shapes.items() if (why := unusable(shape))}
    if 2 * len(broken) > len(annotations):
        first, why = next(iter(broken.items()))
        raise RefexpError(
            f"{source}: {len(broken)} of {len(annotations)} masks cannot be used, first annotation "
            f"{shown(annotations[first]['id'])}: {why}. Fix the program that wrote this file."
        )


def unusable(shape: Shape | str | None) -> str | None:
    """Return why a mask cannot be used. None for a mask with an area, and without a mask."""
    if isinstance(shape, Shape):
        return None if shape.extent else "has a mask without area"
    return shape


def settle(
    annotation: Record, shape: Shape | str | None, image: Record, source: str, fractions: bool = False
) -> str | None:
    """Settle mask, box and area of one annotation in place. Returns why it cannot be used, or None.

    fractions: coordinates in [0, 1] are shares of the image's sides. Else they are an object in a corner pixel.
    """
    where = f"{source}, annotation {shown(annotation['id'])}"
    height, width = _frame(image)
    if isinstance(shape, Shape) and shape.rle is not None and shape.rle["size"] != [height, width]:
        return "its RLE mask has another size than its image"
    if isinstance(shape, Shape) and shape.polygons and fractions and _in_fractions(shape.extent, height, width):
        repaired("polygons in fractions of the image", where)
        scaled = [[c * (height if i % 2 else width) for i, c in enumerate(polygon)] for polygon in shape.polygons]
        shape = shape_of(scaled)
    if isinstance(shape, Shape) and shape.extent is not None:
        return _settle_mask(annotation, shape, (height, width), where)
    why = unusable(shape)
    if why is None and _has_points(annotation.get("segmentation")):
        why = "has polygons of fewer than three corners"
    if why:
        repaired("mask that cannot be used, only its box is kept", f"{where}: {why}")
    annotation.pop("segmentation", None)
    return _settle_box(annotation, (height, width), where, fractions)


def _has_points(segmentation: Any) -> bool:
    return isinstance(segmentation, list) and any(part != [] for part in segmentation)


def are_fractions(
    annotations: Sequence[Record], shapes: Mapping[int, Shape | str | None], images: Mapping[Any, Record]
) -> bool:
    """Whether most annotations of a file have coordinates in [0, 1]. One alone can be an object in a corner pixel."""
    found = 0
    for position, shape in shapes.items():
        annotation = annotations[position]
        shape = shape if isinstance(shape, Shape) else box_shape(annotation)
        height, width = _frame(images[annotation["image_id"]])
        found += shape is not None and shape.rle is None and _in_fractions(shape.extent, height, width)
    return 2 * found > len(annotations)


def _in_fractions(extent: Extent | None, height: int, width: int) -> bool:
    """Whether coordinates are shares of an image's sides, or leave it a little: in an image of more than 4 pixels."""
    slack = geometry.SLACK
    return extent is not None and min(extent) >= -slack and max(extent) <= 1 + slack and min(height, width) > 4


def _settle_mask(annotation: Record, shape: Shape, size: Size, where: str) -> str | None:
    assert shape.extent is not None
    if far(shape, size):
        return "its mask lies outside its image"
    if not fits(shape, size):
        repaired("mask clipped to its image", where)
    segmentation = shape.polygons or annotation["segmentation"]
    if shape.rle is not None and not isinstance(segmentation, dict):
        repaired("RLE mask written as a bare list", where)
        segmentation = shape.segmentation
    annotation["segmentation"] = segmentation
    rle = shape.rle or coco_mask.merge(coco_mask.frPyObjects(shape.polygons, *size))
    extent = shape.extent if shape.rle or annotation.get("bbox") else None
    box = box_of(annotation.get("bbox"))
    if box is None or min(box[2:]) <= 0 or not _same(extent_of_box(box), clipped(shape.extent, *size)):
        if annotation.get("bbox") is not None:
            repaired("bbox that contradicts its mask replaced", where)
        box = coco_mask.toBbox(rle).tolist()
        if min(box[2:]) <= 0 and extent:  # thinner than a pixel
            box = box_of_extent(clipped(extent, *size))
        annotation["bbox"] = box
    elif box != annotation["bbox"]:
        repaired("bbox or area written as text", where)
        annotation["bbox"] = box
    _settle_area(annotation, float(coco_mask.area(rle)), SAME_AREA, where)
    return None


def _same(written: Extent, true: Extent) -> bool:
    """Whether a written box may stand: it overlaps the mask's, or differs by two pixels at most, as tiny ones do."""
    return (
        geometry.overlap(written, true) >= SAME_BOX or max(abs(a - b) for a, b in zip(written, true, strict=True)) <= 2
    )


def _settle_box(annotation: Record, size: Size, where: str, fractions: bool) -> str | None:
    """Settle the box of an annotation without a mask. Returns why it cannot be used, or None."""
    box = box_of(annotation.get("bbox"))
    if box is None:
        return "has neither a usable mask nor a usable box"
    if box != annotation["bbox"]:
        repaired("bbox or area written as text", where)
    x, y, w, h = box
    if w < 0 or h < 0:
        repaired("bbox from another corner", where)
        box = [min(x, x + w), min(y, y + h), abs(w), abs(h)]
    if fractions and _in_fractions(extent_of_box(box), *size):
        repaired("bbox in fractions of the image", where)
        box = [side * size[1 - i % 2] for i, side in enumerate(box)]
    extent = extent_of_box(box)
    if min(box[2:]) <= 0:
        return "its box has no area"
    if far(Shape(None, None, extent), size):
        return "its box lies outside its image"
    if not fits(Shape(None, None, extent), size):
        repaired("bbox clipped to its image", where)
        box = box_of_extent(clipped(extent, *size))
    if box != annotation["bbox"]:
        annotation["bbox"] = box
    _settle_area(annotation, box[2] * box[3], np.inf, where)
    return None


def _settle_area(annotation: Record, true: float, factor: float, where: str) -> None:
    """Drop a written area that is no area, or that differs from the true one by more than this factor.

    Without it, the area follows from the mask or the box. A mask covers a part of its box, so for boxes any smaller
    area may stand. Areas of a few pixels differ with the way of counting.
    """
    written = annotation.get("area")
    if written is None:
        annotation.pop("area", None)
        return
    area = number(written)
    tiny = area is not None and max(area, true) <= 16
    if area is None or area <= 0 or (not tiny and not true / factor <= area <= SAME_AREA * true):
        repaired("area that contradicts its mask or box dropped", where)
        del annotation["area"]
    elif area != written or isinstance(written, str):
        repaired("bbox or area written as text", where)
        annotation["area"] = area
