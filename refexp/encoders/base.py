"""What every encoder shares: how an image becomes a network input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F

from refexp.machine.networks import computing, normalise
from refexp.types import Weights


class Encoder(ABC):
    """Image -> feature grid. Constructors check their arguments only; `load` builds the network.

    input_size: side of the square network input in pixels. grid: side G of the feature grid.
    reference_context: how references are shown: the box's longer side times (1 + this), cropped; None: the whole image.
    batch: targets encoded together.
    """

    input_size: int
    grid: int
    reference_context: float | None
    batch: int = 1
    antialias: ClassVar[bool] = False
    """Whether shrinking to `input_size` filters first. The paper's recipe does not (METHOD 2.2)."""

    inert: ClassVar[frozenset[str]] = frozenset({"checkpoints_dir"})
    """Settings that cannot change a result, and so are no part of a store key."""

    @abstractmethod
    def provenance(self) -> Weights:
        """Where the weights come from; reads their file, but builds nothing."""

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Build the network on `device`."""

    @abstractmethod
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Normalised f32 [B, 3, input_size, input_size] -> f32 [B, G * G, C], row-major."""

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """f32 [B, 3, h, w] in [0, 1] -> normalised network input (bicubic, not clamped; METHOD 1.2, 2.2)."""
        size = (self.input_size, self.input_size)
        resized = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=self.antialias)
        return normalise(resized)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """f32 [B, 3, h, w] in [0, 1] -> f32 [B, G * G, C]."""
        with torch.inference_mode(), computing(images.device):
            return self.forward(self.prepare(images))
