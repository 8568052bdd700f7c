"""Choosing the references: which annotated instances teach each class (METHOD 0)."""

from __future__ import annotations

import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from refexp.data.coco import Data, Record, Split, has_mask
from refexp.data.reference_files import Listed, Lookup, read_references
from refexp.errors import RefexpError
from refexp.types import Reference

log = logging.getLogger(__name__)

Features = Callable[[Sequence[Record]], torch.Tensor]
"""n references -> their instance prototypes f32 [n, C] (METHOD 1.5, one reference each), in the same order."""


@dataclass(frozen=True)
class Shots:
    """How many references a class gets, and which instances may serve.

    missing: what happens to a class with fewer than `n` valid references: "error" refuses it by name, "drop" leaves
    the class out of references and evaluation, "repeat" repeats the valid ones in order (the paper's way on LVIS),
    "keep" makes do with them. A class without any is left out in all cases but "error".
    valid: "paper" (METHOD 0's filter) or "any" (every instance that is no crowd).
    min_side, border: of that filter, the box's shorter side and its distance from the image's border in pixels.
    """

    n: Annotated[int, Field(ge=1)]
    missing: Literal["error", "drop", "repeat", "keep"] = "error"
    valid: Literal["paper", "any"] = "paper"
    min_side: Annotated[float, Field(ge=0)] = 32
    border: Annotated[float, Field(ge=0)] = 10

    def may_serve(self, annotation: Record, image: Record) -> bool:
        """Whether an instance may be a reference: no crowd, and past the filter that `valid` names."""
        if annotation.get("iscrowd", 0):
            return False
        x, y, w, h = annotation["bbox"]
        return self.valid == "any" or (
            annotation.get("isimpossible", 0) != 1
            and min(w, h) >= self.min_side
            and min(x, y) >= self.border
            and x + w <= image["width"] - self.border
            and y + h <= image["height"] - self.border
        )


def candidates(split: Split, shots: Shots) -> list[Record]:
    """Every instance that some seed could choose, in file order."""
    return [
        annotation
        for annotation in split.annotations
        if shots.may_serve(annotation, split.images[annotation["image_id"]])
        and (split.boxes_only or has_mask(annotation))
    ]


class Sampler(ABC):
    """Split -> references per class, in class order.

    takes_all: shots and seed have no say, and classes may have different numbers of references.
    """

    takes_all = False

    @abstractmethod
    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        """At most `shots.n` references for each class index; fewer, or none, where there are no more.

        classes: the K class names, by index. features: costly, for who chooses by what references look like.
        """


class PaperSampler(Sampler):
    """The published order of drawing (METHOD 0): `seed=33` picks the references behind the published numbers."""

    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
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
            log.warning("%s: %d annotations without a mask passed over as references", split.source, without_mask)
        return chosen


class AllSampler(Sampler):
    """Every reference there is, crowds aside, in file order."""

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
    """References that a file names, the first `shots.n` of each class in its order; `reference_files` reads it.

    path: a COCO file such as an earlier run's `references.json`, a published k-shot list, an FsDet seed folder or the
    paper's pickle. Each reference must be among the dataset's; classes that the dataset lacks are passed over.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        index = {name: label for label, name in enumerate(classes)}
        lookup = Lookup(split)
        chosen: dict[int, list[Record]] = {label: [] for label in split.labels.values()}
        listed = [(reference, _label(reference, split, index)) for reference in read_references(self.path, shots.n)]
        if all(label is None for _, label in listed):
            raise RefexpError(
                f"sampler.path: {self.path} lists none of the dataset's classes, but "
                f"{', '.join(dict.fromkeys(reference.kind for reference, _ in listed))}."
            )
        for reference, label in listed:
            if label is None:
                continue
            found = lookup.find(reference, label)
            if not found:
                raise RefexpError(
                    f"sampler.path: {reference}, of {self.path} is not in {split.source}; "
                    "dataset.references must be the annotations that it was drawn from."
                )
            chosen[label] += [a for a in found if not (reference.whole_image and _is_difficult(a))]
        return {label: found[: shots.n] for label, found in chosen.items()}


def _is_difficult(annotation: Record) -> bool:
    """Whether VOC, or a conversion of it, marks an instance as one not to be counted."""
    return any(annotation.get(key, 0) for key in ("difficult", "ignore", "iscrowd"))


def _label(reference: Listed, split: Split, index: dict[str, int]) -> int | None:
    """The class index by name, or by category id where there is no name to go by; None for a class left out."""
    if index and reference.name is not None:
        return index.get(reference.name)
    return None if reference.category is None else split.labels.get(reference.category)


class DiverseSampler(Sampler):
    """References that look least alike: a first one at random, then always the one farthest from those chosen.

    The distance to the chosen ones is 1 - the highest cosine of instance prototypes; of equals the first in the file
    is taken. A class's draw depends on the seed and its own annotations alone, and S shots are the first of S + 1.

    pool: how many valid references of a class, drawn with the seed, are compared. Cost: each goes through the encoder
    once (the store keeps its prototype), so K classes cost up to K x pool reference crops: 16000 for COCO's 80.
    """

    def __init__(self, pool: Annotated[int, Field(ge=1)] = 200) -> None:
        self.pool = pool

    def choose(
        self, split: Split, shots: Shots, seed: int, classes: Sequence[str] = (), features: Features | None = None
    ) -> dict[int, list[Record]]:
        assert features is not None, "DiverseSampler chooses by features"
        if self.pool < shots.n:
            raise RefexpError(
                f"sampler.pool={self.pool}: less than shots.n={shots.n}; nothing would be left to choose."
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
    """At most `count` of them, at random, in their order."""
    kept = rng.sample(range(len(annotations)), min(count, len(annotations)))
    return [annotations[i] for i in sorted(kept)]


def farthest(prototypes: torch.Tensor, count: int, first: int) -> list[int]:
    """Rows of f32 [n, C], at most `count`: `first`, then always the lowest of highest cosines to the rows taken."""
    unit = torch.nn.functional.normalize(prototypes.double(), dim=1)
    nearest = torch.full((len(unit),), -torch.inf, dtype=unit.dtype)
    taken = [first]
    while len(taken) < min(count, len(unit)):
        # Rounded, so that references that are equal stay equal in whatever order a product is summed.
        nearest = torch.maximum(nearest, (unit @ unit[taken[-1]]).round(decimals=9))
        nearest[taken[-1]] = torch.inf
        taken.append(int(nearest.argmin()))
    return taken


def choose_references(
    data: Data, sampler: Sampler, shots: Shots, seed: int, features: Features | None = None
) -> tuple[Data, list[list[Reference]]]:
    """Draw the references and settle what happens to classes with too few: the data that is left, S references a
    class (fewer with "keep"), some perhaps without a mask.

    features: of the references on offer, called by samplers that choose by what references look like.
    Raises RefexpError that names the classes with too few valid references, if `shots.missing` is "error".
    """
    chosen = sampler.choose(data.references, shots, seed, data.classes, features)
    if not sampler.takes_all:
        chosen = settle(chosen, data, shots)
    kept = [label for label in range(len(data.classes)) if chosen[label]]
    if not kept:
        drawn = f"no class has {shots.n} valid references"
        why = "no annotations of the chosen classes, so no references" if sampler.takes_all else drawn
        raise RefexpError(f"{data.references.source}: {why}.")
    if len(kept) < len(data.classes):
        names = [name for label, name in enumerate(data.classes) if label not in set(kept)]
        why = "without references" if sampler.takes_all else "too few valid references"
        log.warning("%d classes left out, %s: %s", len(names), why, ", ".join(names))
    left = data.restrict(kept)
    return left, [[left.references.reference(annotation) for annotation in chosen[label]] for label in kept]


def settle(chosen: dict[int, list[Record]], data: Data, shots: Shots) -> dict[int, list[Record]]:
    """`shots.n` references for each class index, fewer or none, as `shots.missing` says."""
    counts = {name: len(chosen[label]) for label, name in enumerate(data.classes)}
    short = {name: count for name, count in counts.items() if count < shots.n}
    if short and shots.missing == "error":
        shown = ", ".join(f"{name} ({count})" for name, count in list(short.items())[:10])
        more = f" and {len(short) - 10} more" if len(short) > 10 else ""
        raise RefexpError(
            f"{data.references.source}: too few valid references for {shots.n} shots: {shown}{more}. "
            "Use fewer shots, shots.missing=drop, repeat or keep, shots.valid=any, or name the classes in "
            "dataset.classes."
        )
    if shots.missing == "keep":
        return chosen
    if shots.missing == "repeat":
        return {label: _repeat(references, shots.n) for label, references in chosen.items()}
    return {label: references if len(references) == shots.n else [] for label, references in chosen.items()}


def _repeat(references: list[Record], count: int) -> list[Record]:
    return [references[i % len(references)] for i in range(count)] if references else []
