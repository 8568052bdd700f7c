"""A finished run as a whole, for whoever shows it: loggers, pictures, the report page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refexp.data.coco import Data, Record
from refexp.types import Detections, MemoryBank


@dataclass(frozen=True)
class Outcome:
    """What a run knows when it is over; its files are on disk by then.

    output: the run's folder. config: the resolved configuration.
    references: per class, the annotations it was taught with (of `data.references`); bank: what they taught.
    detections: one a target, in the order of `data.targets.images`.
    metrics: flat, as in metrics.json; empty without evaluation. summary: metrics.json's other keys.
    curves: by kind ("bbox", "segm"), precision f64 [10 IoUs, 101 recalls, K]; -1 where no instance counts.
    diagnostics: diagnostics.json's content, if it was asked for.
    note: what every output must say of weights that are not the published ones.
    """

    output: Path
    config: dict[str, Any]
    data: Data
    references: Sequence[Sequence[Record]]
    bank: MemoryBank
    detections: Sequence[Detections]
    metrics: dict[str, float | None]
    summary: dict[str, Any]
    curves: dict[str, np.ndarray]
    diagnostics: dict[str, Any] | None = None
    note: str | None = None
