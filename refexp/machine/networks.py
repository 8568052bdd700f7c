"""Shared by all networks: normalisation of images, and numerical precision."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Literal

import torch

from refexp.errors import RefexpError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@lru_cache(maxsize=8)
def imagenet(device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """ImageNet's mean and deviation per channel, each [3, 1, 1]. Cached, because a copy to a GPU synchronises it."""
    mean, std = (torch.tensor(v, dtype=dtype, device=device)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


def normalise(images: torch.Tensor) -> torch.Tensor:
    """f32 [..., 3, h, w] in [0, 1] -> the same shape, normalised by ImageNet's mean and deviation per channel."""
    mean, std = imagenet(images.device, images.dtype)
    return (images - mean) / std


@contextmanager
def computing(device: torch.device, precision: Precision = "float32") -> Iterator[None]:
    """Within the block, matrix products and convolutions on `device` run in `precision`, deterministically.

    float32: IEEE single precision. On a GPU, PyTorch by default rounds the inputs of convolutions to TF32.
    tf32: inputs are rounded to 10 bits on GPUs that support it (Ampere and later); float32 elsewhere.
    bfloat16, float16: autocast, which keeps norms and softmax in float32.
    Blocks can be nested. PyTorch's switches are global, so blocks in several threads wait for each other.
    """
    half = HALF.get(precision)
    tf32 = precision == "tf32" and device.type != "cpu"
    with LOCK, switched(tf32), torch.autocast(device.type, half or torch.bfloat16, half is not None):
        yield


def has_half(device: torch.device) -> bool:
    """Whether the device has instructions for half precision. An x86 CPU without AVX-512 takes 30 times longer."""
    if device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.backends.cpu.get_cpu_capability() not in ("AVX2", "NO AVX")


def load_network(component: Any, device: torch.device) -> None:
    """Load the network of an encoder or proposer. Raises RefexpError for half precision on a device that lacks it."""
    precision = getattr(component, "precision", None)
    if precision in HALF and not has_half(device):
        raise RefexpError(
            f"precision={precision}: this CPU has no instructions for half precision (AVX-512), so an image takes some "
            "30 times longer than in float32. Use precision=float32, a GPU, or another machine."
        )
    component.load(device)


LOCK = threading.RLock()


@contextmanager
def switched(tf32: bool) -> Iterator[None]:
    """Within the block, set PyTorch's global switches: TF32 on or off, and only deterministic cuDNN algorithms."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    wanted = [(cudnn, "deterministic", True), (cudnn, "benchmark", False), (cudnn, "allow_tf32", tf32)]
    newer: list[tuple[Any, str, Any]] = []
    if hasattr(cudnn, "conv"):  # since PyTorch 2.9 these override allow_tf32
        newer = [(part, "fp32_precision", "tf32" if tf32 else "ieee") for part in (matmul, cudnn.conv, cudnn.rnn)]
    before = [(part, name, _read(partial(getattr, part, name))) for part, name, _ in wanted + newer]
    products = _read(torch.get_float32_matmul_precision)
    try:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        for part, name, value in wanted + newer:
            setattr(part, name, value)
        yield
    finally:
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for part, name, value in before:
            if value is not None:
                setattr(part, name, value)


def _read(switch: Callable[[], Any]) -> Any:
    """A switch's value. None if PyTorch raises because the program set old and new switches to different values."""
    try:
        return switch()
    except RuntimeError:
        return None
