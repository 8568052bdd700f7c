"""The nouns of an experiment.

Shape notation, used in every docstring:

    H, W   original size of an image          M   mask proposals in an image
    S      side of the square target input    N   candidates (proposal, class) of an image
    K      classes                            C   encoder channels
    G      side of the encoder's feature grid (37 for DINOv2 at 518 px)

Low-resolution masks are 256 x 256. Boxes are `x1 y1 x2 y2` in pixels unless a name says `xywh`.
Masks at the original size are COCO run-length encodings (RLE), which are small and exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

LOW_RES = 256
"""Side of the low-resolution masks (SAM2's decoder output)."""

Rle = dict[str, Any]
"""Compressed COCO run-length encoding: `{"size": [H, W], "counts": bytes}`."""

ImageId = int | str


@dataclass(frozen=True)
class Target:
    """One target image as the networks see it (METHOD 2.1).

    rgb: u8 [H, W, 3]; square: f32 [3, S, S] in [0, 1].
    truth: ground-truth masks of the chosen classes; only the oracle proposer may look at them.
    """

    id: ImageId
    rgb: np.ndarray
    square: torch.Tensor
    truth: tuple[Rle, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Original (H, W)."""
        return int(self.rgb.shape[0]), int(self.rgb.shape[1])


@dataclass(frozen=True)
class MaskProposals:
    """What a proposer finds in one image, before any class is known.

    quality: f32 [M], the proposer's own confidence in [0, 1] (SAM2: predicted IoU).
    masks_lr: bool [M, 256, 256], the image squeezed to a square.
    masks: M RLEs at the original H x W.
    """

    quality: torch.Tensor
    masks_lr: torch.Tensor
    masks: list[Rle]

    def __len__(self) -> int:
        return len(self.masks)

    def pick(self, rows: Sequence[int] | np.ndarray) -> MaskProposals:
        """The proposals at `rows`, in that order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return MaskProposals(self.quality[index], self.masks_lr[index], [self.masks[i] for i in index.tolist()])


@dataclass(frozen=True)
class Proposals:
    """All that matching and merging need of one image; what the expensive half of a run yields.

    quality: f32 [M]; boxes_lr: f32 [M, 4] tight boxes on the 256 x 256 grid;
    features: f32 [M, C], L2-normalised (METHOD 3.1); masks: M RLEs; size: (H, W).
    """

    quality: torch.Tensor
    boxes_lr: torch.Tensor
    features: torch.Tensor
    masks: list[Rle]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True)
class MemoryBank:
    """What the references taught (METHOD 1.5).

    prototypes: f32 [K, C], L2-normalised; instances: per class f32 [S_k, C], one row a reference.
    """

    prototypes: torch.Tensor
    instances: list[torch.Tensor]


@dataclass(frozen=True)
class Candidates:
    """Proposals with a class and a score, in rank order.

    index: i64 [N] into the image's proposals; labels: i64 [N] in [0, K); scores: f32 [N].
    A matcher yields them in proposal order; each postprocess step returns a subset, reordered or rescored.
    """

    index: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor

    def __len__(self) -> int:
        return int(self.index.numel())

    def pick(self, rows: torch.Tensor) -> Candidates:
        """The candidates at `rows` (indices or a boolean mask), in that order."""
        return Candidates(self.index[rows], self.labels[rows], self.scores[rows])


@dataclass(frozen=True)
class Detections:
    """The answer for one image, best first.

    labels: i64 [N]; scores: f32 [N]; masks: N RLEs. The boxes are the masks' tight boxes.
    """

    image_id: ImageId
    labels: torch.Tensor
    scores: torch.Tensor
    masks: list[Rle]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True)
class Weights:
    """Where a network's weights came from, for the provenance of every output."""

    origin: str
    file: Path | None = None
    sha256: str | None = None
