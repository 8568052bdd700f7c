"""Small images, banks and proposals for the tests of matchers, and every matcher in conf/matcher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from conftest import ROOT

from refexp.config.building import build
from refexp.config.composing import compose_config, resolve
from refexp.masks import encode
from refexp.method.memory import build_bank, instance_prototype
from refexp.types import Candidates, MemoryBank, Patches, Proposals

GRID, CHANNELS = 8, 16
NAMES = sorted(path.stem for path in (ROOT / "conf/matcher").glob("[!_]*.yaml"))


def matcher(name: str, **settings: Any) -> Any:
    """The matcher of an option, built as a run builds it."""
    return build(resolve(compose_config([f"matcher={name}"]))["matcher"] | settings, "matcher")


def patches_from(generator: torch.Generator, direction: torch.Tensor) -> Patches:
    """A reference: a square of patches around `direction` in front of random ones, with a border of partial weights."""
    weights = torch.zeros(GRID, GRID)
    weights[2:6, 2:6], weights[3:5, 3:5] = 0.4, 1
    tokens = torch.randn(GRID * GRID, len(direction), generator=generator)
    tokens[weights.flatten() > 0] += 6 * direction
    return Patches(tokens, weights.flatten(), weights.flatten() == 0)


def bank_of(references: Sequence[Sequence[Patches]]) -> MemoryBank:
    instances = [torch.stack([instance_prototype(p.tokens, p.weights) for p in of_class]) for of_class in references]
    classes = ("ladybird", "leaf", "cookie", "button", "far")[: len(references)]
    return build_bank(instances, [list(of_class) for of_class in references], classes)


def made_bank(shots: int = 3, classes: int = 3, seed: int = 0) -> MemoryBank:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.eye(CHANNELS)[:classes]
    return bank_of([[patches_from(generator, direction) for _ in range(shots)] for direction in directions])


def made_proposals(count: int = 6, seed: int = 1) -> Proposals:
    """Squares of an image whose halves look like the first two classes."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(GRID, GRID, CHANNELS, generator=generator)
    tokens[:, :3, 0] += 5
    tokens[:, 5:, 1] += 5
    masks = np.zeros((count, 4 * GRID, 8 * GRID), dtype=bool)  # not square, as photographs are
    features = []
    for mask in masks:
        y, x = (int(v) for v in torch.randint(0, 5, (2,), generator=generator))
        mask[4 * y : 4 * y + 12, 8 * x : 8 * x + 24] = True
        features.append(tokens[y : y + 3, x : x + 3].mean(dim=(0, 1)))
    stacked = F.normalize(torch.stack(features), dim=1) if count else torch.zeros(0, CHANNELS)
    quality, boxes = torch.linspace(0.2, 1, count) if count else torch.zeros(0), torch.zeros(count, 4)
    rles = encode(masks) if count else []
    return Proposals(quality, boxes, stacked, rles, (4 * GRID, 8 * GRID), tokens.flatten(0, 1))


def picked(proposals: Proposals, rows: Sequence[int]) -> Proposals:
    """The proposals at `rows`."""
    index = torch.tensor(rows, dtype=torch.int64)
    return replace(
        proposals,
        quality=proposals.quality[index],
        boxes_lr=proposals.boxes_lr[index],
        features=proposals.features[index],
        masks=[proposals.masks[i] for i in rows],
    )


def changed(bank: MemoryBank, rows: Sequence[Sequence[int]]) -> MemoryBank:
    """The bank with these references of each class."""
    pairs = list(zip(bank.instances, rows, strict=True))
    patches = [[of_class[i] for i in kept] for of_class, kept in zip(bank.known_patches, rows, strict=True)]
    return build_bank([instances[list(kept)] for instances, kept in pairs], patches, bank.classes)


def scores_of(found: Candidates) -> dict[tuple[int, int], float]:
    """The scores by (proposal, class)."""
    return dict(zip(zip(found.index.tolist(), found.labels.tolist(), strict=True), found.scores.tolist(), strict=True))
