"""Proposals of one image, drawn at random or by hand."""

from __future__ import annotations

import numpy as np
import torch

from refexp.masks import encode, low_res_boxes, to_low_res
from refexp.types import Candidates, Proposals

SIZE = (60, 80)
CLASSES = 3


def proposals_of(masks: np.ndarray, quality=None, features=None) -> Proposals:
    """Proposals with these masks, bool [M, H, W]; by default the first has the highest quality."""
    count = len(masks)
    falling = torch.linspace(0.9, 0.1, count)
    alike = torch.nn.functional.normalize(torch.ones(count, 4), dim=1)
    return Proposals(
        quality=falling if quality is None else torch.tensor(quality, dtype=torch.float32),
        boxes_lr=low_res_boxes(to_low_res(masks)),
        features=alike if features is None else features,
        masks=encode(masks) if count else [],
        size=masks.shape[1:],
    )


def every(scores, labels=None) -> Candidates:
    """One candidate for each proposal, in their order."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    labels = torch.zeros(len(scores), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Candidates(torch.arange(len(scores)), labels, scores)


def bars(*columns: tuple[int, int]) -> np.ndarray:
    """Masks of whole columns of the image, from the first up to the last, which is left out."""
    masks = np.zeros((len(columns), *SIZE), dtype=bool)
    for mask, (first, last) in zip(masks, columns, strict=True):
        mask[:, first:last] = True
    return masks


def scene(seed: int = 0, count: int = 24) -> tuple[Candidates, Proposals, np.ndarray]:
    """Ellipses that often overlap, with different scores and qualities; also their masks, bool [M, H, W]."""
    random = np.random.default_rng(seed)
    y, x = np.indices(SIZE)
    centre_y, centre_x = random.uniform(10, 50, (count, 1, 1)), random.uniform(10, 70, (count, 1, 1))
    height, width = random.uniform(4, 25, (2, count, 1, 1))
    masks = ((y - centre_y) / height) ** 2 + ((x - centre_x) / width) ** 2 < 1
    features = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(count, 8))) + 0.7, dim=1).float()
    proposals = proposals_of(masks, random.uniform(0.2, 1, count), features)
    labels = random.integers(0, CLASSES, count)
    return every(random.uniform(0.1, 1, count), labels.tolist()), proposals, masks
