"""The base class of the proposers."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import ClassVar

import torch

from refexp.errors import RefexpError
from refexp.masks import LOW_RES, Rle, areas, rles_to_low_res
from refexp.types import ImageId, MaskProposals, Target, Weights


class Proposer(ABC):
    """Makes class-agnostic mask proposals for a target image. The constructor only checks its arguments.

    image_size: side S of the square to which every target is resized, for the proposer and the encoder (METHOD 2.1).
    A proposer keeps a setting that is itself a proposer, or a mapping of proposers, as an attribute of the same name.
    So the store keys hold what matters of it.
    """

    image_size: int
    inert: ClassVar[frozenset[str]] = frozenset({"checkpoints_dir"})
    """Settings that cannot change a result, so they are not part of the store keys."""
    revision: ClassVar[int] = 0
    """Raised when this class changes its results, so that what it left in a store is made again."""
    sees_truth: bool = False
    """Whether the proposals depend on the ground truth."""
    reads_ids: bool = False
    """Whether the proposals depend on the id of the image. Then the store keys hold the id."""

    def provenance(self) -> Weights:
        """Return the origin of the weights. Reads their file, but does not build the network."""
        return Weights(origin="none needed")

    def check(self, image_ids: Collection[ImageId]) -> None:  # noqa: B027 - most proposers can use any target
        """Raise RefexpError if this proposer cannot use the targets with these ids. A run calls it before `load`."""

    def load(self, device: torch.device) -> None:  # noqa: B027 - not every proposer has a network
        """Build the network on `device`, if there is one."""

    @property
    def mask_maker(self) -> Proposer | None:
        """The proposer whose `masks_in_boxes` makes the masks: this one, one inside it, or None."""
        return self if type(self).masks_in_boxes is not Proposer.masks_in_boxes else None

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


def proposals_of(scores: Sequence[float], masks: Sequence[Rle]) -> MaskProposals:
    """Make proposals of masks at the size of the image, with their scores as quality. Empty masks are left out."""
    filled = [row for row, area in enumerate(areas(masks)) if area]
    if not filled:
        return MaskProposals(torch.zeros(0), torch.zeros(0, LOW_RES, LOW_RES, dtype=torch.bool), [])
    chosen = [masks[row] for row in filled]
    quality = torch.tensor([scores[row] for row in filled], dtype=torch.float32)
    return MaskProposals(quality, rles_to_low_res(chosen), chosen)


def together(parts: Sequence[Weights]) -> Weights:
    """Describe several sources as one: the hash is of all of them, the kind that of the least trustworthy."""
    content = json.dumps([part.sha256 or part.origin for part in parts])
    nothing = "none needed"
    return Weights(
        " + ".join(part.origin for part in parts if part.origin != nothing) or nothing,
        sha256=hashlib.sha256(content.encode()).hexdigest(),
        kind=min((part.kind for part in parts), key=("random", "other", "published").index),
    )
