"""The interface of the evaluation protocols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from refexp.data.coco import Split, has_mask
from refexp.data.protocols import Protocol
from refexp.errors import RefexpError
from refexp.evaluation.matches import Matches
from refexp.inputs.repairs import repaired
from refexp.types import Detections


class Evaluated(NamedTuple):
    """The result of an evaluation.

    metrics: a flat dict with keys `<kind>/<number>` and `<kind>/<number>/<class>`. Values are fractions, None where no
    instance counts. Numbers of the protocol that does not lead have the kind `<kind>@<protocol>`.
    curves: by kind ("bbox", "segm"), precision f64 [10 IoUs, 101 recalls, K], -1 where no instance counts. Empty for
    protocols without curves.
    matches: by kind, which detections match which instances. Empty for protocols that do not match them.
    """

    metrics: dict[str, float | None]
    curves: dict[str, np.ndarray]
    matches: Mapping[str, Matches] = MappingProxyType({})


@dataclass(frozen=True)
class Matched:
    """Which of the N detections of an image that count match which of its T instances, by each of P measures.

    The detections of a class are next to each other, highest score first.
    label: i32 [N]. score: f32 [N], or as the detections have it. hit, ignored: u64 [P, N], bits `area * 10 + IoU`.
    taken: i32 [P, T], the detection that matches each annotation at IoU .5; -1 if none does.
    """

    label: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    taken: np.ndarray


class ByImage(ABC):
    """An evaluation of some targets whose costly part runs image by image, while the detections are made.

    `match` accepts the images in any order. It is fastest if all variants of an image come in a row.
    """

    @abstractmethod
    def match(self, found: Detections) -> Matched:
        """Match the detections of one target. The result is small and can be sent to another process."""

    @abstractmethod
    def conclude(self, matched: Sequence[Matched]) -> Evaluated:
        """Compute the metrics. matched: one for each target, in the order of `targets.images`."""


class Evaluation(ABC):
    """Checks whether it can evaluate the targets, and computes the metrics of the detections.

    protocol: the protocol that leads: it gives the metrics without a protocol in their name.
    """

    protocol: Protocol = "standard"

    @abstractmethod
    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before any expensive step."""

    @abstractmethod
    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """Compute the metrics of the detections. classes: the K class names."""

    def by_image(self, targets: Split, classes: Sequence[str]) -> ByImage | None:
        """Return the evaluation that runs image by image; None if this one needs all detections at once."""
        return None


def of_all(targets: Split, detections: Sequence[Detections]) -> Iterator[Detections]:
    """Yield the detections of each target, in the order of `targets.images`: none where `detections` has none."""
    given = {found.image_id: found for found in detections}
    for image_id in targets.images:
        yield given.get(image_id, Detections(image_id, torch.zeros(0, dtype=torch.int64), torch.zeros(0), []))


def need_instances(targets: Split) -> None:
    """Raise RefexpError if the chosen classes have no annotation apart from crowds."""
    if not any(not a.get("iscrowd", 0) for a in targets.annotations):
        raise RefexpError(
            f"{targets.source}: no instance of the chosen classes in its {len(targets.images)} targets, so nothing to "
            "evaluate; choose other dataset.classes, or a higher input.limit if it is set."
        )


def need_masks(targets: Split) -> None:
    """Raise RefexpError if no annotation has a mask. Ignore the instances without one, as if they were crowds."""
    if not any(has_mask(a) for a in targets.annotations):
        raise RefexpError(f"{targets.source}: the annotations have no masks, only boxes; use evaluation=boxes.")
    for annotation in targets.annotations:
        if not has_mask(annotation):
            x, y, w, h = annotation["bbox"]
            annotation |= {"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]], "iscrowd": 1}
            where = f"{targets.source}, annotation {annotation['id']}"
            repaired("annotation without a mask: ignored in the evaluation", where)
