"""Choosing the references: which annotated instances teach each class (METHOD 0)."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from refexp.data.coco import Data, Record, Split, has_mask, read_coco
from refexp.errors import RefexpError

log = logging.getLogger(__name__)

MIN_SIDE = 32
BORDER = 10


@dataclass(frozen=True)
class Shots:
    """How many references a class gets, and which instances may serve.

    missing: what happens to a class with fewer than `n` valid references: "error" refuses it by name, "drop" leaves
    the class out of references and evaluation, "repeat" repeats the valid ones in order (the paper's way on LVIS).
    valid: "paper" (METHOD 0's filter) or "any" (every instance that is no crowd).
    """

    n: Annotated[int, Field(ge=1)]
    missing: Literal["error", "drop", "repeat"] = "error"
    valid: Literal["paper", "any"] = "paper"


def is_valid(annotation: Record, width: int, height: int) -> bool:
    """The paper's filter: box at least 32 px both ways and 10 px away from the image border, not `isimpossible`."""
    x, y, w, h = annotation["bbox"]
    return (
        annotation.get("isimpossible", 0) != 1
        and min(w, h) >= MIN_SIDE
        and min(x, y) >= BORDER
        and x + w <= width - BORDER
        and y + h <= height - BORDER
    )


def candidates(split: Split, shots: Shots) -> list[Record]:
    """Every instance that some seed could choose, in file order."""
    return [a for a in split.annotations if has_mask(a) and may_serve(a, split, shots)]


def may_serve(annotation: Record, split: Split, shots: Shots) -> bool:
    """Whether an instance may be a reference: no crowd, and past the filter that `shots.valid` names."""
    image = split.images[annotation["image_id"]]
    valid = shots.valid == "any" or is_valid(annotation, image["width"], image["height"])
    return valid and not annotation.get("iscrowd", 0)


class Sampler(ABC):
    """Split -> references per class, in class order."""

    @abstractmethod
    def choose(self, split: Split, shots: Shots, seed: int) -> dict[int, list[Record]]:
        """At most `shots.n` references for each class index; fewer, or none, where there are no more."""


class PaperSampler(Sampler):
    """The published order of drawing (METHOD 0): `seed=33` picks the references behind the published numbers."""

    def choose(self, split: Split, shots: Shots, seed: int) -> dict[int, list[Record]]:
        rng = random.Random(seed)
        pools: dict[Any, list[Record]] = {}
        for annotation in split.annotations:
            pools.setdefault(annotation["category_id"], []).append(annotation)
        chosen: dict[int, list[Record]] = {label: [] for label in split.labels.values()}
        without_mask = 0
        # One random stream runs across the classes, so their order matters: that of their first annotation.
        for category, pool in pools.items():
            rng.shuffle(pool)
            used_images = set()
            for annotation in pool:
                if annotation["image_id"] in used_images or not may_serve(annotation, split, shots):
                    continue
                if not has_mask(annotation):
                    without_mask += 1
                    continue
                used_images.add(annotation["image_id"])
                label = split.labels[category]
                chosen[label].append(annotation)
                if len(chosen[label]) == shots.n:
                    break
        if without_mask:
            log.warning("%s: %d annotations without a mask passed over as references", split.source, without_mask)
        return chosen


class FileSampler(Sampler):
    """References read back from a COCO file, in its order, such as the `references.json` of an earlier run.

    path: the file; its images, annotations and categories must be those of the dataset's references.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def choose(self, split: Split, shots: Shots, seed: int) -> dict[int, list[Record]]:
        content = read_coco(self.path)
        names = {c["id"]: c["name"] for c in content["categories"]}
        known = {annotation["id"]: annotation for annotation in split.annotations}
        chosen: dict[int, list[Record]] = {label: [] for label in split.labels.values()}
        for annotation in content["annotations"]:
            original = known.get(annotation["id"])
            if original is None or any(original[key] != annotation[key] for key in ("image_id", "category_id", "bbox")):
                if annotation["category_id"] not in split.labels:
                    continue
                raise RefexpError(
                    f"sampler.path: annotation {annotation['id']} ({names[annotation['category_id']]}) of {self.path} "
                    f"is not in {split.source}."
                )
            label = split.labels[original["category_id"]]
            if len(chosen[label]) < shots.n:
                chosen[label].append(original)
        return chosen


def choose_references(data: Data, sampler: Sampler, shots: Shots, seed: int) -> tuple[Data, list[list[Record]]]:
    """Draw the references and settle what happens to classes with too few: the data that is left, S references a class.

    Raises RefexpError that names the classes with too few valid references, if `shots.missing` is "error".
    """
    chosen = sampler.choose(data.references, shots, seed)
    counts = {name: len(chosen[label]) for label, name in enumerate(data.classes)}
    short = {name: count for name, count in counts.items() if count < shots.n}
    if short and shots.missing == "error":
        shown = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:10])
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        raise RefexpError(
            f"{data.references.source}: too few valid references for {shots.n} shots: {shown}{more}. "
            "Use fewer shots, shots.missing=drop or repeat, shots.valid=any, or name the classes in dataset.classes."
        )
    if shots.missing == "repeat":
        chosen = {label: _repeat(references, shots.n) for label, references in chosen.items()}
    kept = [label for label in range(len(data.classes)) if len(chosen[label]) == shots.n]
    if not kept:
        raise RefexpError(f"{data.references.source}: no class has {shots.n} valid references.")
    if len(kept) < len(data.classes):
        names = [name for label, name in enumerate(data.classes) if label not in set(kept)]
        log.warning("%d classes left out, too few valid references: %s", len(names), ", ".join(names))
    return data.restrict(kept), [chosen[label] for label in kept]


def _repeat(references: list[Record], count: int) -> list[Record]:
    return [references[i % len(references)] for i in range(count)] if references else []
