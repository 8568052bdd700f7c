"""What every evaluation protocol is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refexp.data.coco import Split, has_mask
from refexp.errors import RefexpError
from refexp.types import Detections


class Evaluated(NamedTuple):
    """metrics: flat, `<kind>/<number>` and `<kind>/<number>/<class>`, fractions; None where nothing counts.

    curves: by kind ("bbox", "segm"), precision f64 [10 IoUs, 101 recalls, K], -1 where no instance counts; empty for
    protocols without them.
    """

    metrics: dict[str, float | None]
    curves: dict[str, np.ndarray]


class Evaluation(ABC):
    """A protocol: which targets it can judge, and what numbers it makes of their detections."""

    @abstractmethod
    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before anything costly is done."""

    @abstractmethod
    def evaluate(self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]) -> Evaluated:
        """What the detections are worth; classes: the K names."""


def need_instances(targets: Split) -> None:
    """Raise RefexpError if no annotation of the chosen classes counts."""
    if not any(not a.get("iscrowd", 0) for a in targets.annotations):
        raise RefexpError(f"{targets.source}: no annotation of the chosen classes, so nothing to evaluate.")


def need_masks(targets: Split) -> None:
    """Raise RefexpError if an annotation has no mask, or one that cannot be read."""
    if not any(has_mask(a) for a in targets.annotations):
        raise RefexpError(f"{targets.source}: its annotations have no masks, only boxes; evaluation=boxes.")
    for annotation in targets.annotations:
        targets.mask(annotation)
