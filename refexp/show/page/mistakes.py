"""Hits and errors for the report page: a verdict for each detection and instance, and the crops to show."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from refexp.data.coco import Data, has_mask
from refexp.data.lvis import LvisSplit, federated_images
from refexp.evaluation.overlaps import Kind
from refexp.evaluation.tide import (  # fmt: skip
    BACKGROUND,
    BOTH,
    CLASS,
    DUPLICATE,
    HIT,
    IGNORED,
    LOCALISATION,
    MISSED,
    Judgement,
    Truth,
    iou,
    judge_image,
)
from refexp.machine.progress import track
from refexp.masks import boxes_xywh
from refexp.show.instances import Instance, annotated, detected
from refexp.types import Detections, ImageId

PART = "part"
"""Background in TIDE's terms, because its IoU is at most .1, but most of it lies inside an object."""
COLORS = {
    HIT: "#2bb673", CLASS: "#f58a1f", LOCALISATION: "#f2cf1d", BOTH: "#b98a52", DUPLICATE: "#9a7bff",
    PART: "#4fb3e8", BACKGROUND: "#ff5fa2", MISSED: "#f0383b", IGNORED: "#9aa1a8",
}  # fmt: skip
"""The verdicts on a detection or an instance, and their colors on an image."""
VERDICTS = tuple(COLORS)
NAMES = {
    HIT: "hit", CLASS: "wrong class", LOCALISATION: "poor localization", BOTH: "wrong class, poor localization",
    DUPLICATE: "duplicate", PART: "part of an object", BACKGROUND: "background", MISSED: "missed", IGNORED: "ignored",
}  # fmt: skip
"""The names of the verdicts."""


@dataclass(frozen=True)
class ImageErrors:
    """The T annotated objects and the N detections of one image.

    judgement: from `refexp.evaluation.tide`. ious: f64 [N, T].
    """

    truth: list[Instance]
    found: Detections
    judgement: Judgement
    ious: np.ndarray

    @cached_property
    def of_truth(self) -> list[str]:
        """The verdict on each instance: HIT, MISSED, IGNORED, or the type of its error with the highest score."""
        verdicts = [MISSED] * len(self.truth)
        judged = self.judgement
        # Ascending scores, so that the error with the highest score overwrites the others.
        for row in np.argsort(judged.scores, kind="stable").tolist():
            if judged.kinds[row] in (CLASS, LOCALISATION):
                verdicts[judged.nearest[row]] = judged.kinds[row]
        for index in range(len(self.truth)):
            if judged.matched[index] or judged.ignored[index]:
                verdicts[index] = HIT if judged.matched[index] else IGNORED
        return verdicts


def judged_by(data: Data, evaluated: Container[str]) -> Kind:
    """The kind of IoU that decides hits: masks, or boxes if only boxes were evaluated or an annotation has no mask."""
    boxes_alone = "bbox" in evaluated and "segm" not in evaluated
    return "segm" if not boxes_alone and all(has_mask(a) for a in data.targets.annotations) else "bbox"


def judge_all(data: Data, detections: Sequence[Detections], kind: Kind) -> dict[ImageId, ImageErrors]:
    """Match every target's detections with its annotations.

    Takes about 4 ms for 100 detections and 7 instances.
    """
    targets = data.targets
    federated = federated_images(targets) if isinstance(targets, LvisSplit) else None
    errors = {}
    for found in track(detections, len(detections), "errors"):
        truth = Truth.of(targets, found.image_id, kind)
        judgement, ious = judge_image(kind, found, truth)
        tell_parts(judgement, found, truth)
        if federated is not None:
            # LVIS annotates only some classes per image, and some of these not exhaustively. Whether any other
            # detection is right is unknown.
            known, some = (federated[found.image_id][key] for key in ("known", "not_exhaustive_category_ids"))
            for row, label in enumerate(found.labels.tolist()):
                if label + 1 not in known or (label + 1 in some and judgement.kinds[row] != HIT):
                    judgement.kinds[row] = IGNORED
        errors[found.image_id] = ImageErrors(annotated(targets, found.image_id), found, judgement, ious)
    return errors


def tell_parts(judgement: Judgement, found: Detections, truth: Truth) -> None:
    """Change BACKGROUND to PART, with its object, for the detections that lie by more than half in an object."""
    rows = [row for row, kind in enumerate(judgement.kinds) if kind == BACKGROUND]
    masks = [found.masks[row] for row in rows]
    boxes = isinstance(truth.shapes, np.ndarray)
    # pycocotools gives the covered share of a detection for each instance that is called a crowd.
    covered = iou(boxes_xywh(masks) if boxes else masks, truth.shapes, [True] * len(truth.labels))
    for row, share in zip(rows, np.where(truth.crowd, 0, covered), strict=True):
        if share.max(initial=0) > 0.5:
            judgement.kinds[row], judgement.nearest[row] = PART, share.argmax()


def worst_misses(errors: dict[ImageId, ImageErrors], data: Data, count: int) -> list[Instance]:
    """The instances without a hit at any score, those that cover the largest fraction of their image first."""
    missed = []
    for image_id, image in errors.items():
        record = data.targets.images[image_id]
        for one, verdict in zip(image.truth, image.of_truth, strict=True):
            if verdict not in (HIT, IGNORED):
                missed.append((one.box[2] * one.box[3] / (record["height"] * record["width"]), one))
    missed.sort(key=lambda entry: -entry[0])
    return [replace(one, text=_of_miss(errors[one.image_id], one.row, data)) for _, one in missed[:count]]


def _of_miss(image: ImageErrors, row: int, data: Data) -> str:
    verdict, judged = image.of_truth[row], image.judgement
    if verdict == MISSED and PART in {kind for kind, n in zip(judged.kinds, judged.nearest, strict=True) if n == row}:
        return "only a part is detected"
    about = [n for n, kind in enumerate(judged.kinds) if kind == verdict and judged.nearest[n] == row]
    if not about:
        return "no similar detection"
    best = max(about, key=lambda n: judged.scores[n])
    if verdict == CLASS:
        return f"detected as {data.classes[judged.labels[best]]}, score {judged.scores[best]:.2f}"
    return f"{NAMES[LOCALISATION]}, IoU {image.ious[best, row]:.2f}"


def confident_alarms(errors: dict[ImageId, ImageErrors], data: Data, count: int) -> list[Instance]:
    """The false positives with the highest scores."""
    wrong = [
        (float(image.judgement.scores[row]), image_id, row)
        for image_id, image in errors.items()
        for row, kind in enumerate(image.judgement.kinds)
        if kind not in (HIT, IGNORED)
    ]
    wrong.sort(key=lambda entry: -entry[0])
    return [
        replace(detected(errors[image_id].found)[row], text=_of_alarm(errors[image_id], row, data))
        for _, image_id, row in wrong[:count]
    ]


def _of_alarm(image: ImageErrors, row: int, data: Data) -> str:
    judged = image.judgement
    kind, nearest = judged.kinds[row], int(judged.nearest[row])
    reason = NAMES[kind]
    if kind == CLASS:
        reason = f"is {data.classes[judged.truth[nearest]]}"
    elif kind == LOCALISATION:
        reason = f"IoU {image.ious[row, nearest]:.2f}"
    elif kind == PART:
        reason = f"part of {data.classes[judged.truth[nearest]]}, IoU {image.ious[row, nearest]:.2f}"
    return f"{judged.scores[row]:.2f}, {reason}"
