"""How a run is spoken of, the same on terminal, page and in tables."""

from __future__ import annotations

from refexp.folders.record import RunRecord

KINDS = {"bbox": "box", "segm": "mask", "semantic": "semantic"}
"""What is compared, in a word."""
NUMBERS = (
    "nAP", "nAP50", "nAP75", "nAP_small", "nAP_medium", "nAP_large", "AR100",
    "nAP_rare", "nAP_common", "nAP_frequent", "AR300",
)  # fmt: skip
"""The numbers that are shown, where the evaluation gives them: the last four are those of LVIS."""
SEMANTIC = ("mIoU", "FB-IoU")
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


def headline(record: RunRecord) -> list[str]:
    """What was run: classes, references, images, and instances where they are known."""
    left_out = len(record.classes_left_out)
    taught = [counted(record.shots, "shot", "shots"), f"seed {record.seed}"]
    return [
        counted(len(record.classes), "class", "classes") + (f" ({left_out} left out)" if left_out else ""),
        *(["all references"] if record.shots == "all" else taught),
        counted(record.images, "image", "images"),
        *([counted(record.instances, "instance", "instances")] if record.instances else []),
    ]


def short(source: str) -> str:
    """A split's source without the folders that lead to it; not every source is a file."""
    return "/".join(source.rsplit("/", 2)[-2:]) if source.startswith("/") else source
