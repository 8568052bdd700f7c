"""The overlaps of detections and instances, by boxes and by masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from pycocotools import mask as coco_mask

from refexp.data.coco import Split
from refexp.data.protocols import SHORT_TRUTH, Protocol, one_short
from refexp.masks import Rle, areas, boxes_xywh

Kind = Literal["bbox", "segm"]


def iou(found: Sequence[Rle] | np.ndarray, truth: Sequence[Rle] | np.ndarray, crowd: Sequence[bool]) -> np.ndarray:
    """Compute the IoU f64 [N, T] of RLEs or of boxes `x y w h` with pycocotools.

    For a crowd it is the covered share of the detection.

    Cost: O(N x T) run-length intersections, without pairs whose boxes do not intersect.
    """
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    sides = [side.astype(np.float64) if isinstance(side, np.ndarray) else list(side) for side in (found, truth)]
    return np.asarray(coco_mask.iou(*sides, [int(flag) for flag in crowd]), dtype=np.float64)


def annotated(
    kind: Kind, annotation: dict[str, Any], targets: Split, protocol: Protocol = "standard"
) -> tuple[Sequence[float], float]:
    """Return the box `x y w h` and the area of an annotation. By masks, a missing area is the mask's."""
    box, area = annotation["bbox"], annotation.get("area")
    if kind == "bbox" and protocol == "published" and annotation.get(SHORT_TRUTH):
        box, area = one_short(box), None
    if area is None:
        area = float(areas([targets.mask(annotation)])[0]) if kind == "segm" else box[2] * box[3]
    return box, area


def detected(
    kind: Kind, masks: Sequence[Rle], protocol: Protocol = "standard"
) -> tuple[Sequence[Rle] | np.ndarray, np.ndarray]:
    """Return what overlaps of detections are computed from, masks or boxes `x y w h` f64 [N, 4], and its areas [N].

    The area decides the size range in which an unmatched detection counts.
    """
    if kind == "segm":
        return masks, areas(masks)
    boxes = boxes_xywh(masks)
    if protocol == "published":
        boxes[:, 2:] -= 1
    return boxes, boxes[:, 2] * boxes[:, 3]
