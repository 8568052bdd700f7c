"""Calibration: one scale for the similarities of all classes, from the references alone (not published).

Every reference is left out once. The matcher compares it with the bank of all other references, as if it were a
proposal. These similarities show how similar instances of a class, and of other classes, are to that class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from refexp.errors import RefexpError
from refexp.masks import encode
from refexp.method.memory import build_bank
from refexp.types import MemoryBank, Proposals

Calibration = Literal["zscore", "temperature"]
Similarity = Callable[[Proposals, MemoryBank], torch.Tensor]

SMALLEST = 0.02
"""Lowest scale: two references can have equal similarities, and a scale of 0 would make any difference infinite."""


@dataclass(frozen=True)
class Calibrator:
    """Maps similarities f32 [M, K] to scores f32 [M, K] in [0, 1]: `squash((similarity - shift) / scale)`.

    shift, scale: f32 [K].
    """

    shift: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def fit(cls, kind: Calibration, similarity: Similarity, bank: MemoryBank) -> Calibrator:
        """Fit shift and scale to the left-out references.

        zscore: mean and standard deviation of a class's similarities over all references.
        temperature: the point halfway between a class's mean over its own references and its mean over the others gets
        the score 0.5 in every class. The scale is one for all classes, half the mean distance of the two: with few
        shots, the distance of a single class can be tiny or negative, and its scale would let this class win always.
        Cost: one call of `similarity` for each reference.
        Raises RefexpError like `check_shots`.
        """
        check_shots(kind, {bank.name(label): len(rows.unique(dim=0)) for label, rows in enumerate(bank.instances)})
        scores, labels = leave_one_out(kind, similarity, bank)
        if kind == "zscore":
            return cls(scores.mean(dim=0), scores.std(dim=0, correction=0).clamp(min=SMALLEST))
        own = labels[:, None] == torch.arange(scores.shape[1])
        mean_own = (scores * own).sum(dim=0) / own.sum(dim=0)
        mean_other = (scores * ~own).sum(dim=0) / (~own).sum(dim=0)
        scale = ((mean_own - mean_other).mean() / 2).clamp(min=SMALLEST)
        return cls((mean_own + mean_other) / 2, scale.expand(len(mean_own)))

    def __call__(self, similarity: torch.Tensor) -> torch.Tensor:
        return squash((similarity - self.shift) / self.scale)


def check_shots(kind: Calibration, shots: Mapping[str, int]) -> None:
    """Check the number of different references of each class.

    Raises RefexpError with the class that has a single one, and, for temperature, if there is a single class.
    """
    if few := [name for name, count in shots.items() if count < 2]:
        raise RefexpError(
            f"matcher.calibration={kind} needs at least 2 references a class; {few[0]} has {shots[few[0]]}. "
            "Use more shots, or matcher.calibration=null."
        )
    if kind == "temperature" and len(shots) == 1:
        raise RefexpError("matcher.calibration=temperature needs at least 2 classes; use matcher.calibration=null.")


def squash(values: torch.Tensor) -> torch.Tensor:
    """Map any numbers to (0, 1), and 0 to 0.5. Unlike a sigmoid, this does not round large values to 1.

    Equal scores would have no order, and average precision needs one.
    """
    return (1 + values / (1 + values.abs())) / 2


def leave_one_out(kind: Calibration, similarity: Similarity, bank: MemoryBank) -> tuple[torch.Tensor, torch.Tensor]:
    """Compare each of R references with the bank without it. Returns similarities f32 [R, K] and labels i64 [R].

    Repeated references leave the bank together, because a copy would be its own best match.
    """
    scores, labels = [], []
    for label, rows in enumerate(bank.instances):
        for row in range(len(rows)):
            others = (rows != rows[row]).any(dim=1).nonzero()[:, 0].tolist()
            try:
                scores.append(similarity(as_proposal(bank, label, row), keep(bank, label, others)))
            except RefexpError as error:
                raise RefexpError(
                    f"matcher.calibration={kind} leaves out each reference once, and then {error}"
                ) from None
            labels.append(label)
    return torch.cat(scores), torch.tensor(labels)


def keep(bank: MemoryBank, label: int, rows: list[int]) -> MemoryBank:
    """Return the bank with only these references of one class. The lists of the other classes stay the same objects."""
    instances, patches = list(bank.instances), bank.patches
    instances[label] = instances[label][rows]
    if patches is not None:
        patches = list(patches)
        patches[label] = [patches[label][row] for row in rows]
    return build_bank(instances, patches, bank.classes)


def as_proposal(bank: MemoryBank, label: int, row: int) -> Proposals:
    """Return a reference as the only proposal of an image that has the size of the feature grid."""
    mask, tokens = np.ones((1, 1), dtype=bool), None
    if bank.patches is not None:
        patches = bank.patches[label][row]
        tokens, side = patches.tokens, round(len(patches.tokens) ** 0.5)
        mask = (patches.weights >= patches.weights.max().clamp(max=0.5)).view(side, side).numpy()
    feature = F.normalize(bank.instances[label][row : row + 1], dim=1)
    height, width = mask.shape
    return Proposals(torch.ones(1), torch.zeros(1, 4), feature, encode(mask[None]), (height, width), tokens)
