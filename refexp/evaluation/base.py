"""What every evaluation protocol is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from refexp.data.coco import Split, has_mask
from refexp.errors import RefexpError
from refexp.types import Detections


class Evaluation(ABC):
    """A protocol: which targets it can judge, and what numbers it makes of their detections."""

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """Of the last evaluation, by kind ("bbox", "segm"): precision f64 [10 IoUs, 101 recalls, K].

        -1 where no instance counts; empty for protocols without them.
        """
        return {}

    @abstractmethod
    def check(self, targets: Split) -> None:
        """Raise RefexpError if these targets cannot be evaluated, before anything costly is done."""

    @abstractmethod
    def evaluate(
        self, targets: Split, detections: Sequence[Detections], classes: Sequence[str]
    ) -> dict[str, float | None]:
        """Flat metrics as fractions; None where nothing counts."""


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
