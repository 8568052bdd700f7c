"""The base class of the encoders: their interface and the preparation of the network input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from refexp.machine.networks import computing, normalise
from refexp.types import Weights

View = Literal["flip", "whole"] | Annotated[float, Field(ge=0)]
"""One more view of a reference; see `Encoder.reference_views`."""


class Encoder(ABC):
    """Maps an image to a feature grid. The constructor only checks its arguments, and `load` builds the network.

    input_size: side of the square network input in pixels. grid: side G of the feature grid.
    reference_context: references are cropped to a square with side (1 + reference_context) times the longer side of
        their box. None uses the whole image.
    reference_views: more views of each reference. "flip" mirrors it, "whole" is the whole image, and a number is a crop
        with that reference_context. The prototype of a reference is the mean over all its views, so that it still
        counts once in its class. Cost: one forward pass per view, once, because the store keeps the mean. What a
        matcher does with patches uses the first view only.
    batch: number of targets encoded together.
    """

    input_size: int
    grid: int
    reference_context: float | None
    reference_views: Sequence[View] = ()
    batch: int = 1
    antialias: ClassVar[bool] = False
    """Whether resizing to `input_size` is antialiased. The paper's recipe is not (METHOD 2.2)."""

    inert: ClassVar[frozenset[str]] = frozenset({"checkpoints_dir"})
    """Settings that cannot change a result, so they are not part of the store keys."""
    revision: ClassVar[int] = 0
    """Raised when this class changes its results, so that what it left in a store is made again."""

    @abstractmethod
    def provenance(self) -> Weights:
        """Return the origin of the weights. Reads their file, but does not build the network."""

    @abstractmethod
    def load(self, device: torch.device) -> None:
        """Build the network on `device`."""

    @abstractmethod
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Map normalised f32 [B, 3, input_size, input_size] to f32 [B, G * G, C], row-major."""

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Resize f32 [B, 3, h, w] in [0, 1] to the normalised network input (bicubic, not clamped; METHOD 1.2, 2.2)."""
        size = (self.input_size, self.input_size)
        resized = F.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=self.antialias)
        return normalise(resized)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images: f32 [B, 3, h, w] in [0, 1] -> f32 [B, G * G, C]."""
        with torch.inference_mode(), computing(images.device):
            return self.forward(self.prepare(images))
