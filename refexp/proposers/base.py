"""The base class of the proposers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from refexp.errors import RefexpError
from refexp.masks import Rle
from refexp.types import MaskProposals, Target, Weights


class Proposer(ABC):
    """Makes class-agnostic mask proposals for a target image. The constructor only checks its arguments.

    image_size: side S of the square to which every target is resized, for the proposer and the encoder (METHOD 2.1).
    """

    image_size: int
    inert: ClassVar[frozenset[str]] = frozenset({"checkpoints_dir"})
    """Settings that cannot change a result, so they are not part of the store keys."""
    sees_truth: ClassVar[bool] = False
    """Whether the proposals depend on the ground truth."""

    def provenance(self) -> Weights:
        """Return the origin of the weights. Reads their file, but does not build the network."""
        return Weights(origin="none needed")

    def load(self, device: torch.device) -> None:  # noqa: B027 - not every proposer has a network
        """Build the network on `device`, if there is one."""

    def masks_in_boxes(self, target: Target, boxes: torch.Tensor) -> list[Rle]:
        """Make one mask for each box, in order, for references that have only boxes.

        boxes: f32 [B, 4], `x1 y1 x2 y2` in pixels of the image.
        Raises RefexpError if this proposer cannot make masks from boxes.
        """
        raise RefexpError(
            f"these references have boxes but no masks, and {type(self).__name__} cannot make masks from boxes. Choose "
            "a proposer that can (SAM2, regions), or run `refexp data boxes2masks` first."
        )

    @abstractmethod
    def propose(self, target: Target) -> MaskProposals:
        """Return all proposals of one image, in any order, without empty masks."""
