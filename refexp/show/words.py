"""How a run is spoken of, the same on terminal, page and in tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KINDS = {"bbox": "box", "segm": "mask", "semantic": "semantic"}
"""What is compared, in a word."""
BOUNDS = {
    "class": "every detection named rightly",
    "mask": "every detection outlined exactly",
    "matching": "the best proposals, perfectly matched and merged",
}
"""The upper bounds of a diagnosis."""


def percent(value: float | None) -> str:
    """A fraction as `36.8`, never `-0.0`; a dash where no instance counts."""
    return "-" if value is None else f"{round(100 * value, 1) + 0.0:.1f}"


def counted(count: int | str, one: str, many: str) -> str:
    """`1 class`, `8 classes`."""
    return f"{count} {one if count == 1 else many}"


def headline(summary: Mapping[str, Any]) -> list[str]:
    """What was run, from metrics.json: classes, references, images, and instances where they are known."""
    left_out = len(summary.get("classes_left_out", ()))
    taught = [counted(summary["shots"], "shot", "shots"), f"seed {summary['seed']}"]
    return [
        counted(len(summary["classes"]), "class", "classes") + (f" ({left_out} left out)" if left_out else ""),
        *(["all references"] if summary["shots"] == "all" else taught),
        counted(summary["images"], "image", "images"),
        *([counted(summary["instances"], "instance", "instances")] if summary["instances"] else []),
    ]


def short(source: str) -> str:
    """A split's source without the folders that lead to it; not every source is a file."""
    return "/".join(source.rsplit("/", 2)[-2:]) if source.startswith("/") else source
