"""What networks share: how images are normalised for them, and in which precision they compute."""

from __future__ import annotations

from typing import Literal

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Precision = Literal["float32", "bfloat16"]


def normalise(images: torch.Tensor) -> torch.Tensor:
    """f32 [..., 3, h, w] in [0, 1] -> the same by ImageNet's mean and deviation of each channel."""
    mean, std = (images.new_tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context in which matrix products run in bfloat16, if asked for."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")
