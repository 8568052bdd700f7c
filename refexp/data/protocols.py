"""The two protocols of a benchmark's numbers: `standard` (its community's) and `published` (the paper's code).

docs/reproducing.md lists where they differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

Protocol = Literal["standard", "published"]
OTHER: dict[Protocol, Protocol] = {"standard": "published", "published": "standard"}
SHORT_TRUTH = "published_one_short"
"""Field of an annotation whose box is one pixel short in the published ground truth, as that of a detection is."""


def one_short(box: Sequence[float]) -> list[float]:
    """Convert `x y w h` to the published form, where w and h are one pixel less: w = x2 - x1, x2 the last pixel."""
    x, y, w, h = box
    return [x, y, w - 1, h - 1]


def as_other(metrics: Mapping[str, float | None], protocol: Protocol) -> dict[str, float | None]:
    """Rename flat metrics as those of the protocol that does not lead: `bbox/nAP` -> `bbox@standard/nAP`."""
    return {name.replace("/", f"@{protocol}/", 1): value for name, value in metrics.items()}
