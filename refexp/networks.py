"""What networks share: how images are normalised for them, and in which precision they compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Literal

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@lru_cache(maxsize=8)
def imagenet(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """ImageNet's mean and deviation of each channel, each [3, 1, 1]; made once, since a copy to a GPU waits for it."""
    mean, std = (torch.tensor(v, dtype=dtype, device=device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def normalise(images: torch.Tensor) -> torch.Tensor:
    """f32 [..., 3, h, w] in [0, 1] -> the same by ImageNet's mean and deviation of each channel."""
    mean, std = imagenet(images.device, images.dtype)
    return (images - mean) / std


@contextmanager
def computing(device: torch.device, precision: Precision = "float32") -> Iterator[None]:
    """Within the block, matrix products and convolutions on `device` run in `precision`, the same way every time.

    float32: IEEE single precision, on a GPU too, where PyTorch would round the inputs of convolutions to TF32.
    tf32: inputs rounded to 10 bits on GPUs that can (Ampere and later), float32 elsewhere.
    bfloat16, float16: by autocast, which keeps norms and softmax in float32.
    Blocks nest; PyTorch's switches are as before afterwards.
    """
    half = HALF.get(precision)
    with switched(tf32=precision == "tf32"), torch.autocast(device.type, half or torch.bfloat16, half is not None):
        yield


@contextmanager
def switched(tf32: bool) -> Iterator[None]:
    """PyTorch's global switches: TF32 on or off, and only algorithms of cuDNN that give the same bits every time."""
    wanted: list[tuple[Any, str, Any]] = [
        (torch.backends.cudnn, "deterministic", True),
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cuda.matmul, "allow_tf32", tf32),
        (torch.backends.cudnn, "allow_tf32", tf32),
    ]
    if hasattr(torch.backends.cudnn, "conv"):  # since 2.9 these go before allow_tf32, and may say something else
        value = "tf32" if tf32 else "ieee"
        wanted += [(part, "fp32_precision", value) for part in (torch.backends.cuda.matmul, torch.backends.cudnn.conv)]
    before = [(part, name, _read(part, name)) for part, name, _ in wanted]
    try:
        for part, name, value in wanted:
            setattr(part, name, value)
        yield
    finally:
        for part, name, value in before:
            if value is not None:
                setattr(part, name, value)


def _read(part: Any, name: str) -> Any:
    """A switch's value; None where PyTorch refuses because the program set its twin to something else."""
    try:
        return getattr(part, name)
    except RuntimeError:
        return None
