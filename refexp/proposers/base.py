"""What every proposer offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from refexp.errors import RefexpError
from refexp.masks import Rle
from refexp.types import MaskProposals, Target, Weights


class Proposer(ABC):
    """Target image -> class-agnostic mask proposals. Constructors check their arguments only.

    image_size: side S of the square every target is resized to, for proposer and encoder alike (METHOD 2.1).
    """

    image_size: int
    inert: ClassVar[frozenset[str]] = frozenset({"checkpoints_dir"})
    """Settings that cannot change a result, and so are no part of a store key."""
    sees_truth: ClassVar[bool] = False
    """Whether the proposals depend on the ground truth."""

    def provenance(self) -> Weights:
        """Where the weights come from; reads their file, but builds nothing."""
        return Weights(origin="none needed")

    def load(self, device: torch.device) -> None:  # noqa: B027 - not every proposer has a network
        """Build what is needed on `device`."""

    def masks_in_boxes(self, target: Target, boxes: torch.Tensor) -> list[Rle]:
        """For references that come with boxes only: one mask a box, in order.

        boxes: f32 [B, 4] as `x1 y1 x2 y2` in pixels of the image. Raises RefexpError if this proposer cannot.
        """
        raise RefexpError(
            f"these references have boxes but no masks, and {type(self).__name__} cannot make masks of boxes: take a "
            "proposer that can (SAM2, regions), or run `refexp data boxes2masks` first."
        )

    @abstractmethod
    def propose(self, target: Target) -> MaskProposals:
        """All proposals of one image, in any order, empty masks left out."""
