"""Say why classes have too few references, and what helps: only what would help with these annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from refexp.data.coco import Data, Record, Split, has_mask

if TYPE_CHECKING:  # it imports this module
    from refexp.data.sampling import Sampler, Shots

SHOWN = 3
"""Number of classes that a message shows."""
Chosen = Mapping[int, Sequence[Record]]
"""The annotations that a sampler chose, by class index."""


def too_few(chosen: Chosen, data: Data, shots: Shots, sampler: Sampler) -> str:
    """Return the message about classes with fewer than `shots.n` references. It counts why others were not chosen."""
    split = data.references
    of_class: dict[int, list[Record]] = {label: [] for label in chosen}
    for annotation in split.annotations:
        of_class[split.labels[annotation["category_id"]]].append(annotation)
    short = [label for label in range(len(data.classes)) if len(chosen[label]) < shots.n]
    shown = [f"{data.classes[label]} ({len(chosen[label])})" for label in short[:SHOWN]]
    helps = settings_that_help(chosen, short, shots)
    if sampler.path:
        source, last = f"sampler.path: {sampler.path}", f"list more references in {sampler.path.name}"
    else:
        source, last = split.source, "annotate more"
        for i, label in enumerate(short[:SHOWN]):
            counts = reasons(of_class[label], chosen[label], split, shots, sampler)
            others = [f"{count} {why}" for why, count in counts.most_common()] or ["no more are annotated"]
            shown[i] += f": {', '.join(others)}"
        for way, labels in ways_that_fill(of_class, short, split, shots, sampler).items():
            helps.append(f"{way} (enough for {', '.join(data.classes[label] for label in labels[:SHOWN])})")
    more = f"; {len(short) - SHOWN} more classes" if len(short) > SHOWN else ""
    what = f"too few valid references for {shots.n} {'shot' if shots.n == 1 else 'shots'}: {'; '.join(shown)}{more}"
    return f"{source}: {what}. What helps: {', or '.join([*helps, last])}."


def reasons(
    annotations: Sequence[Record], chosen: Sequence[Record], split: Split, shots: Shots, sampler: Sampler
) -> Counter[str]:
    """Count why the instances of a class were not chosen."""
    taken, images = {one["id"] for one in chosen}, {one["image_id"] for one in chosen}
    counts: Counter[str] = Counter()
    for one in annotations:
        if one["id"] in taken:
            continue
        why = shots.objection(one, split.images[one["image_id"]])
        if why is None and not split.boxes_only and not has_mask(one):
            why = "without a mask"
        second = sampler.one_per_image and one["image_id"] in images
        counts[why or ("in an image that gave one already" if second else "not chosen")] += 1
    return counts if annotations else Counter({"annotations": 0})


def settings_that_help(chosen: Chosen, short: Sequence[int], shots: Shots) -> list[str]:
    """List the settings that are content with the references that were chosen."""
    counts = [len(references) for references in chosen.values()]
    enough = min(counts) if shots.missing == "error" else max(counts)
    found = [f"fewer shots (at most {enough})"] if enough else []
    if any(chosen[label] for label in short):
        found.append("shots.missing=repeat or keep")
    if max(counts) >= shots.n:
        found.append("leave these classes out (shots.missing=drop or dataset.classes)")
    return found


def ways_that_fill(
    of_class: Mapping[int, Sequence[Record]], short: Sequence[int], split: Split, shots: Shots, sampler: Sampler
) -> dict[str, list[int]]:
    """Return the ways to more candidates, each with the classes that would then have enough."""

    def count(annotations: Sequence[Record], shots: Shots = shots, one_per_image: bool = sampler.one_per_image) -> int:
        valid = [a["image_id"] for a in annotations if shots.may_serve(a, split.images[a["image_id"]])]
        return len(set(valid) if one_per_image else valid)

    def masked(annotations: Sequence[Record]) -> list[Record]:
        return [a for a in annotations if split.boxes_only or has_mask(a)]

    ways: dict[str, Callable[[Sequence[Record]], int]] = {
        "shots.valid=any": lambda those: count(masked(those), shots=replace(shots, valid="any")),
        "sampler=diverse": lambda those: count(masked(those), one_per_image=False),
        "masks for the boxes (refexp data boxes2masks)": count,
    }
    filled = {way: [label for label in short if give(of_class[label]) >= shots.n] for way, give in ways.items()}
    return {way: labels for way, labels in filled.items() if labels}
