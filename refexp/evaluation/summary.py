"""The metrics of a split, from its precision and recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SIZES = "small", "medium", "large"


def summarise(precision: np.ndarray, recall: np.ndarray, limits: Sequence[int]) -> dict[str, float | None]:
    """Compute the means that COCOeval prints, under refexp's names and in its order.

    precision: f64 [10 IoUs, 101 recalls, K, 4], over all areas and by size. recall: f64 [10, K, 4, limits].
    -1: no instance counts. limits: numbers of detections per class and image.
    """
    named = {"nAP": precision[..., 0], "nAP50": precision[:1, ..., 0], "nAP75": precision[5:6, ..., 0]}
    named |= {f"nAP_{size}": precision[..., area] for area, size in enumerate(SIZES, start=1)}
    named |= {f"AR{limit}": recall[:, :, 0, place] for place, limit in enumerate(limits)}
    named |= {f"AR_{size}": recall[:, :, area, -1] for area, size in enumerate(SIZES, start=1)}
    return {name: mean_counted(values) for name, values in named.items()}


def per_class(precision: np.ndarray, classes: Sequence[str]) -> dict[str, float | None]:
    """Compute `nAP/<class>`, `nAP50/<class>` and `nAP75/<class>` from precision f64 [10 IoUs, 101 recalls, K]."""
    of_ious = {"nAP": slice(None), "nAP50": slice(0, 1), "nAP75": slice(5, 6)}
    return {
        f"{metric}/{name}": mean_counted(precision[ious, :, label])
        for label, name in enumerate(classes)
        for metric, ious in of_ious.items()
    }


def mean_counted(values: np.ndarray) -> float | None:
    """Return the mean over the entries that are not -1, or None if there are none."""
    valid = values[values > -1]
    return float(valid.mean()) if valid.size else None
