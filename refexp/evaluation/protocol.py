"""The interface of the evaluation protocols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

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
