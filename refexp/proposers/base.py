"""What every proposer offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from refexp.types import MaskProposals, Target, Weights


class Proposer(ABC):
    """Target image -> class-agnostic mask proposals. Constructors check their arguments only.

    image_size: side S of the square every target is resized to, for proposer and encoder alike (METHOD 2.1).
    """

    image_size: int

    def load(self, device: torch.device) -> Weights:
        """Build what is needed on `device`, once; says where the weights came from."""
        return Weights(origin="none needed")

    @abstractmethod
    def propose(self, target: Target) -> MaskProposals:
        """All proposals of one image, in any order, empty masks left out."""
