"""Choose the references: the annotated instances from which a run learns each class (METHOD 0)."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import torch
from pydantic import Field

from refexp.data.coco import Data, Record, Split, has_mask
from refexp.data.protocols import Protocol
from refexp.data.reference_files import Listed, Lookup, read_references
from refexp.data.too_few import too_few
from refexp.errors import RefexpError
from refexp.types import ImageId, Reference

log = logging.getLogger(__name__)

PUBLISHED_SEED = 42
"""Seed with which the paper's code fills CD-FSOD lists that are too short, whatever the seed of the run."""

Features = Callable[[Sequence[Record]], torch.Tensor]
"""n references -> their instance prototypes f32 [n, C] (METHOD 1.5 for one reference), in the same order."""


@dataclass(frozen=True)
class Shots:
    """The number of references per class, and the filter for valid references.

    n: references per class.
    missing: what to do with a class that has fewer than `n` valid references. "error" raises. "drop" leaves the class
    out of references and evaluation. "repeat" repeats the valid ones in order, as the paper does on LVIS. "keep" uses
    the valid ones only. Except with "error", a class without any valid reference is left out.
    valid: "paper" (the filter of METHOD 0) or "any" (every instance that is not a crowd).
    min_side, border: of the paper's filter, the minimum of the box's shorter side and of its distance from the image
    border, in pixels.
    """

    n: Annotated[int, Field(ge=1)]
    missing: Literal["error", "drop", "repeat", "keep"] = "error"
    valid: Literal["paper", "any"] = "paper"
    min_side: Annotated[float, Field(ge=0)] = 32
    border: Annotated[float, Field(ge=0)] = 10

    def may_serve(self, annotation: Record, image: Record) -> bool:
        """Whether an instance is a valid reference: it is not a crowd and passes the filter `valid`."""
        return self.objection(annotation, image) is None

    def objection(self, annotation: Record, image: Record) -> str | None:
        """Say why an instance is no valid reference, such as "marked as a crowd". None if it is one."""
        if annotation.get("iscrowd", 0):
            return "marked as a crowd"
        if self.valid == "any":
            return None
        x, y, w, h = annotation["bbox"]
        if annotation.get("isimpossible", 0) == 1:
            return "marked impossible"
        if not min(w, h) >= self.min_side:
            return f"smaller than {self.min_side:g} pixels"
        right, bottom = image["width"] - self.border, image["height"] - self.border
        inside = min(x, y) >= self.border and x + w <= right and y + h <= bottom
        return None if inside else f"within {self.border:g} pixels of the border"


def candidates(split: Split, shots: Shots) -> list[Record]:
    """List every instance that some seed can choose, in file order."""
    return [
        annotation
        for annotation in split.annotations
        if shots.may_serve(annotation, split.images[annotation["image_id"]])
        and (split.boxes_only or has_mask(annotation))
    ]


class Sampler(ABC):
    """Chooses the references of each class from a split.

    takes_all: the sampler ignores shots and seed. Classes can have different numbers of references.
    one_per_image: the sampler takes at most one reference of each class from an image.
    path: the file that lists the references, for a sampler that reads them from one.
    """

    takes_all = False
    one_per_image = False
    path: Path | None = None

    @abstractmethod
    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        """Return at most `shots.n` references for each class index. Fewer or none if the split has no more.

        classes: the K class names, by index.
        features: computes prototypes, for samplers that choose by appearance. It is expensive.
        """


class PaperSampler(Sampler):
    """Draws in the paper's order. `seed=33` gives the references of the published results.

    Source: METHOD 0.
    """

    one_per_image = True

    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        rng = random.Random(seed)
        pools: dict[Any, list[Record]] = {}
        for annotation in split.annotations:
            pools.setdefault(annotation["category_id"], []).append(annotation)
        chosen: dict[int, list[Record]] = {label: [] for label in split.labels.values()}
        without_mask = 0
        # All classes share one random stream, so their order matters: the order of their first annotations.
        for category, pool in pools.items():
            rng.shuffle(pool)
            used_images = set()
            for annotation in pool:
                image_id = annotation["image_id"]
                if image_id in used_images or not shots.may_serve(annotation, split.images[image_id]):
                    continue
                if not split.boxes_only and not has_mask(annotation):
                    without_mask += 1
                    continue
                used_images.add(image_id)
                label = split.labels[category]
                chosen[label].append(annotation)
                if len(chosen[label]) == shots.n:
                    break
        if without_mask:
            log.warning("%s: skipped %d annotations without a mask as references", split.source, without_mask)
        return chosen


class AllSampler(Sampler):
    """Takes every instance that is not a crowd, in file order."""

    takes_all = True

    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        chosen: dict[int, list[Record]] = {label: [] for label in split.labels.values()}
        for annotation in split.annotations:
            if not annotation.get("iscrowd", 0):
                chosen[split.labels[annotation["category_id"]]].append(annotation)
        return chosen


class FileSampler(Sampler):
    """Takes the references that a file lists: the first `shots.n` of each class. `reference_files` reads the file.

    path: a COCO file such as an earlier run's `references.json`, a published k-shot list, an FsDet seed folder or the
    paper's pickle. Each listed reference must be in the dataset. Classes that the dataset lacks are skipped.
    protocol: "standard" takes each listed instance once. "published" applies `as_published`, the rule of the paper's
    CD-FSOD runs.
    """

    def __init__(self, path: str, protocol: Protocol = "standard") -> None:
        self.path: Path = Path(path)
        self.protocol = protocol

    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        index = {name: label for label, name in enumerate(classes)}
        lookup = Lookup(split)
        chosen: dict[int, list[Record]] = {label: [] for label in split.labels.values()}
        listed = [(reference, _label(reference, split, index)) for reference in read_references(self.path, shots.n)]
        if all(label is None for _, label in listed):
            raise RefexpError(
                f"sampler.path: {self.path} lists none of the dataset's classes; it lists "
                f"{', '.join(dict.fromkeys(reference.kind for reference, _ in listed))}."
            )
        for reference, label in listed:
            if label is None:
                continue
            found = lookup.find(reference, label)
            if not found:
                raise RefexpError(
                    f"sampler.path: {reference}, of {self.path} is not in {split.source}; "
                    "set dataset.references to the annotations from which this file was drawn."
                )
            # An entry that lists only an image means those of its instances that are not difficult.
            chosen[label] += [a for a in found if not (reference.whole_image and _is_difficult(a))]
        if self.protocol == "published":
            chosen |= as_published({label: chosen[label] for _, label in listed if label is not None}, shots.n)
        return {label: found[: shots.n] for label, found in chosen.items()}


def as_published(listed: dict[int, list[Record]], count: int) -> dict[int, list[Record]]:
    """Replace listed references by those that the paper's code reads from the same CD-FSOD list.

    Of several instances of a class in one image, the first is taken for each of them, and the others are never used.
    A class with fewer than `count` references is filled by drawing among them with replacement. All classes share one
    random stream, so `listed` is in the order in which the classes first appear in the list.
    """
    rng = random.Random(PUBLISHED_SEED)
    chosen = {}
    for label, instances in listed.items():
        by_image: dict[ImageId, list[Record]] = {}
        for instance in instances:
            by_image.setdefault(instance["image_id"], []).append(instance)
        found = [same[0] for same in by_image.values() for _ in same]
        chosen[label] = found + rng.choices(found, k=count - len(found)) if 0 < len(found) < count else found
    return chosen


def _is_difficult(annotation: Record) -> bool:
    """Whether VOC, or a conversion of VOC, marks an instance as not counted."""
    return any(annotation.get(key, 0) for key in ("difficult", "ignore", "iscrowd"))


def _label(reference: Listed, split: Split, index: dict[str, int]) -> int | None:
    """Return the class index by name, or by category id if there is no name. None for a class that is left out."""
    if index and reference.name is not None:
        return index.get(reference.name)
    return None if reference.category is None else split.labels.get(reference.category)


class DiverseSampler(Sampler):
    """Chooses references that look different (farthest-point sampling): the first at random, then always the farthest.

    The distance to the chosen references is 1 - the highest cosine between instance prototypes. Ties go to the first
    in the file. The choice for a class depends only on the seed and on the annotations of that class. The references
    for S shots are the first S of those for S + 1 shots.

    pool: the number of valid references per class, drawn with the seed, that are compared. The encoder processes each
    of them once, and the store keeps the prototype. K classes cost up to K x pool crops: 16000 for the 80 COCO classes.
    """

    def __init__(self, pool: Annotated[int, Field(ge=1)] = 200) -> None:
        self.pool = pool

    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        assert features is not None, "DiverseSampler chooses by features"
        if self.pool < shots.n:
            raise RefexpError(
                f"sampler.pool={self.pool}: less than shots.n={shots.n}; set sampler.pool to at least shots.n."
            )
        valid: dict[Any, list[Record]] = {category: [] for category in split.labels}
        for annotation in candidates(split, shots):
            valid[annotation["category_id"]].append(annotation)
        streams = {category: random.Random(f"{seed} {category}") for category in valid}
        pools = {category: _draw(valid[category], self.pool, streams[category]) for category in valid}
        everything = [annotation for pool in pools.values() for annotation in pool]
        if not everything:
            return {label: [] for label in split.labels.values()}
        prototypes = dict(zip([a["id"] for a in everything], features(everything), strict=True))
        chosen = {}
        for category, pool in pools.items():
            rows = [prototypes[annotation["id"]] for annotation in pool]
            picks = farthest(torch.stack(rows), shots.n, streams[category].randrange(len(pool))) if pool else []
            chosen[split.labels[category]] = [pool[i] for i in picks]
        return chosen


def _draw(annotations: list[Record], count: int, rng: random.Random) -> list[Record]:
    """Draw at most `count` annotations at random. They keep their order."""
    kept = rng.sample(range(len(annotations)), min(count, len(annotations)))
    return [annotations[i] for i in sorted(kept)]


def farthest(prototypes: torch.Tensor, count: int, first: int) -> list[int]:
    """Return at most `count` rows of f32 [n, C]: `first`, then always the row farthest from the rows taken.

    The farthest row has the lowest maximum cosine to the rows taken.
    """
    unit = torch.nn.functional.normalize(prototypes.double(), dim=1)
    nearest = torch.full((len(unit),), -torch.inf, dtype=unit.dtype)
    taken = [first]
    while len(taken) < min(count, len(unit)):
        # Rounding keeps equal references equal, whatever the summation order of the matrix product.
        nearest = torch.maximum(nearest, (unit @ unit[taken[-1]]).round(decimals=9))
        nearest[taken[-1]] = torch.inf
        taken.append(int(nearest.argmin()))
    return taken


def choose_references(
    data: Data, sampler: Sampler, shots: Shots, seed: int, features: Features | None = None
) -> tuple[Data, list[list[Reference]]]:
    """Draw the references and apply `shots.missing` to classes with too few of them.

    Returns the data of the remaining classes, and S references for each class (fewer with "keep"). A reference can be
    without a mask. features: computes the prototypes of references, for samplers that choose by appearance.
    Raises RefexpError with the classes that have too few valid references if `shots.missing` is "error".
    """
    drawn = sampler.choose(data.references, shots, seed, data.classes, features)
    chosen = drawn if sampler.takes_all else apply_missing(drawn, data, shots, sampler)
    kept = [label for label in range(len(data.classes)) if chosen[label]]
    if not kept and sampler.takes_all:
        count = len(data.references.annotations)
        why = (
            f"all {count} annotations of the chosen classes are crowds"
            if count
            else "no annotations of the chosen classes"
        )
        raise RefexpError(f"{data.references.source}: {why}, so no references.")
    if not kept:
        raise RefexpError(too_few(drawn, data, shots, sampler))
    if len(kept) < len(data.classes):
        names = [name for label, name in enumerate(data.classes) if label not in set(kept)]
        why = "without references" if sampler.takes_all else "too few valid references"
        log.warning("%d classes left out, %s: %s", len(names), why, ", ".join(names))
    remaining = data.restrict(kept)
    return remaining, [[remaining.references.reference(one) for one in chosen[label]] for label in kept]


class ByAppearance(Exception):
    """A sampler chooses by the features of images."""


def choose_without_images(data: Data, sampler: Sampler, shots: Shots, seed: int) -> tuple[Data, list[list[Reference]]]:
    """`choose_references` for who has no encoder. No references if the sampler chooses by appearance."""

    def features(annotations: object) -> NoReturn:
        raise ByAppearance

    try:
        return choose_references(data, sampler, shots, seed, features)
    except ByAppearance:
        return data, []


def apply_missing(
    chosen: dict[int, list[Record]], data: Data, shots: Shots, sampler: Sampler
) -> dict[int, list[Record]]:
    """Apply `shots.missing`: return `shots.n` references for each class index, or fewer or none."""
    if shots.missing == "error" and any(len(references) < shots.n for references in chosen.values()):
        raise RefexpError(too_few(chosen, data, shots, sampler))
    if shots.missing == "keep":
        return chosen
    if shots.missing == "repeat":
        return {label: _repeat(references, shots.n) for label, references in chosen.items()}
    return {label: references if len(references) == shots.n else [] for label, references in chosen.items()}


def _repeat(references: list[Record], count: int) -> list[Record]:
    return [references[i % len(references)] for i in range(count)] if references else []
