"""Values of annotation files that mean one thing only, however they are written: 1, 1.0 and "1"; true and "true"."""

from __future__ import annotations

import math
from typing import Any

TRUE = ("1", "1.0", "true")
LARGEST = 1e15
"""Larger numbers are neither ids nor pixels. Beyond it, a float does not hold every whole number."""


def number(value: Any) -> float | None:
    """Return a finite number, also of a text such as "12.5". None for anything else, true and false included."""
    if type(value) is int or type(value) is float:
        # An integer can be too large for a float.
        return float(value) if -LARGEST < value < LARGEST else None
    if isinstance(value, str) and len(value) < 32 and value.isascii():
        try:
            parsed = float(value)
        except ValueError:
            return None
        return parsed if math.isfinite(parsed) and abs(parsed) < LARGEST and "_" not in value else None
    return None


def whole(value: Any) -> int | None:
    """Return a whole number, also of 320.0 and "320". None for anything else."""
    if type(value) is int:
        return value if abs(value) < LARGEST else None
    parsed = number(value)
    return int(parsed) if parsed is not None and parsed == int(parsed) else None


def is_true(value: Any) -> bool:
    """Whether a field such as `iscrowd` is set: 1, true, and texts that say so. Anything else is not."""
    if isinstance(value, str):
        return value.strip().lower() in TRUE
    return value is True or (type(value) in (int, float) and value == 1)
