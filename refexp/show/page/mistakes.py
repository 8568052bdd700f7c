"""What the report page says of hits and errors: of each detection and instance, and which of them it shows."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from refexp.data.coco import Data, has_mask
from refexp.data.lvis import LvisSplit
from refexp.evaluation.coco_protocol import Kind
from refexp.evaluation.lvis_protocol import federated_images
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
    judge_image,
)
from refexp.machine.progress import track
from refexp.show.instances import Instance, annotated, detected
from refexp.types import Detections, ImageId

COLORS = {
    HIT: "#2bb673", CLASS: "#f58a1f", LOCALISATION: "#f2cf1d", BOTH: "#b98a52", DUPLICATE: "#9a7bff",
    BACKGROUND: "#ff5fa2", MISSED: "#f0383b", IGNORED: "#9aa1a8",
}  # fmt: skip
"""What may be said of a detection or an instance, and the color that stands for it on a photograph."""
VERDICTS = tuple(COLORS)
NAMES = {
    HIT: "hit", CLASS: "wrong class", LOCALISATION: "badly outlined", BOTH: "wrong class, badly outlined",
    DUPLICATE: "found twice", BACKGROUND: "overlaps nothing", MISSED: "missed", IGNORED: "does not count",
}  # fmt: skip
"""The same in plain words."""


@dataclass(frozen=True)
class ImageErrors:
    """One image's annotated objects T beside its detections N.

    judgement: of `refexp.evaluation.tide`; ious: f64 [N, T].
    """

    truth: list[Instance]
    found: Detections
    judgement: Judgement
    ious: np.ndarray

    @cached_property
    def of_truth(self) -> list[str]:
        """What became of each instance: HIT, MISSED, IGNORED, or the kind of the best-scored error that is about it."""
        verdicts = [MISSED] * len(self.truth)
        judged = self.judgement
        for row in np.argsort(judged.scores, kind="stable").tolist():
            if judged.kinds[row] in (CLASS, LOCALISATION):
                verdicts[judged.nearest[row]] = judged.kinds[row]
        for index in range(len(self.truth)):
            if judged.matched[index] or judged.ignored[index]:
                verdicts[index] = HIT if judged.matched[index] else IGNORED
        return verdicts


def judged_by(data: Data, evaluated: Container[str]) -> Kind:
    """By what detections are judged: masks, but boxes if only these were evaluated or an annotation has no mask."""
    boxes_alone = "bbox" in evaluated and "segm" not in evaluated
    return "segm" if not boxes_alone and all(has_mask(a) for a in data.targets.annotations) else "bbox"


def judge_all(data: Data, detections: Sequence[Detections], kind: Kind) -> dict[ImageId, ImageErrors]:
    """Every target's detections against its annotations.

    Costs half of what the evaluation costs by pycocotools: some 4 ms for 100 detections and 7 instances.
    """
    targets = data.targets
    federated = federated_images(targets) if isinstance(targets, LvisSplit) else None
    errors = {}
    for found in track(detections, len(detections), "errors"):
        judgement, ious = judge_image(kind, found, Truth.of(targets, found.image_id, kind))
        if federated is not None:
            # LVIS annotates some classes an image, and not each of these to the last instance: of what else is found
            # nobody knows whether it is right.
            known, some = (federated[found.image_id][key] for key in ("known", "not_exhaustive_category_ids"))
            for row, label in enumerate(found.labels.tolist()):
                if label + 1 not in known or (label + 1 in some and judgement.kinds[row] != HIT):
                    judgement.kinds[row] = IGNORED
        errors[found.image_id] = ImageErrors(annotated(targets, found.image_id), found, judgement, ious)
    return errors


def worst_misses(errors: dict[ImageId, ImageErrors], data: Data, count: int) -> list[Instance]:
    """The largest instances, as a share of their image, that no detection of their class hits at any score."""
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
    about = [n for n, kind in enumerate(judged.kinds) if kind == verdict and judged.nearest[n] == row]
    if not about:
        return "nothing like it found"
    best = max(about, key=lambda n: judged.scores[n])
    if verdict == CLASS:
        return f"taken for {data.classes[judged.labels[best]]}, score {judged.scores[best]:.2f}"
    return f"badly outlined, IoU {image.ious[best, row]:.2f}"


def confident_alarms(errors: dict[ImageId, ImageErrors], data: Data, count: int) -> list[Instance]:
    """The detections of highest score that hit nothing."""
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
    said = NAMES[kind]
    if kind == CLASS:
        said = f"is {data.classes[judged.truth[nearest]]}"
    elif kind == LOCALISATION:
        said = f"IoU {image.ious[row, nearest]:.2f}"
    return f"{judged.scores[row]:.2f}, {said}"
