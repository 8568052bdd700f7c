"""Shared by the benchmarks: images, networks with random weights, and timers that synchronise with a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import skimage
import torch
import torch.nn.functional as F

from refexp.encoders.dinov2 import DINOv2
from refexp.inputs.images import read_rgb, to_square, upright_size
from refexp.proposers.sam2 import SAM2Proposer
from refexp.proposers.sam2_decoder import SharedDecoder
from refexp.types import MemoryBank, Target

T = TypeVar("T")
PHOTOGRAPHS = ("rocket.jpg", "coffee.png", "astronaut.png", "chelsea.png")
"""Photos that are part of scikit-image. The first is 640 x 427, COCO's usual size."""
CLASS_COUNT = 20
PAIRS = {"small": ("sam2_hiera_t", "vits14"), "large": ("sam2_hiera_l", "vitl14")}
"""Pairs of SAM2 and DINOv2. The large pair is the one of the paper."""


def photograph(name: str = PHOTOGRAPHS[0]) -> Path:
    """Path of a photo."""
    return Path(skimage.__file__).parent / "data" / name


def make_target(name: str = PHOTOGRAPHS[0], side: int = 1024) -> Target:
    """A photo as a target."""
    width, height = upright_size(photograph(name))
    rgb = read_rgb(photograph(name), height, width)
    return Target(name, rgb, to_square(rgb, side))


def wait(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], T], repeat: int = 1, device: torch.device = torch.device("cpu")) -> tuple[float, T]:  # noqa: B008
    """Median seconds of `repeat` calls, and the last result."""
    times = []
    for _ in range(repeat):
        wait(device)
        start = time.perf_counter()
        result = work()
        wait(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times)), result


def networks(
    sam2: str, arch: str, precision: str, device: torch.device, points_per_side: int = 32
) -> tuple[SAM2Proposer, DINOv2]:
    """Load both networks with RANDOM weights. Every point passes the threshold. Masks are smooth."""
    proposer = SAM2Proposer(
        sam2, weights="random", points_per_side=points_per_side, iou_threshold=0.0, precision=precision
    )
    encoder = DINOv2(arch, weights="random", precision=precision)
    proposer.load(device)
    blur(proposer)
    encoder.load(device)
    return proposer, encoder


@torch.no_grad()
def blur(proposer: SAM2Proposer, cells: int = 8) -> None:
    """Make masks as smooth as those of trained weights: some 300 runs. Random weights give noise of 70,000 runs each.

    It replaces the features of an image by an interpolation of `cells` x `cells` of their means, and gives the children
    of a pixel in the two transposed convolutions equal weights. The work does not change.
    """
    model, decoder = proposer.model, proposer.model.sam_mask_decoder
    for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        layer.weight.copy_(layer.weight.mean(dim=(2, 3), keepdim=True).expand_as(layer.weight))
    proposer.decoder = SharedDecoder(decoder)  # it keeps products of weights
    forward = model.forward_image

    def blurred(images: torch.Tensor) -> dict[str, Any]:
        found = forward(images)
        features = found["backbone_fpn"]
        centred = (F.adaptive_avg_pool2d(f - f.mean(dim=(2, 3), keepdim=True), cells) for f in features)
        found["backbone_fpn"] = [
            F.interpolate(few, size=f.shape[-2:], mode="bicubic") for few, f in zip(centred, features, strict=True)
        ]
        return found

    model.forward_image = blurred


@torch.inference_mode()
def threshold_for(proposer: SAM2Proposer, target: Target, keep: int) -> float:
    """A predicted IoU that `keep` points of the grid exceed. With random weights, no fixed threshold is useful."""
    image = proposer.embed(target.square, proposer.no_mem_embed)
    ious = [
        proposer.decoder.best(proposer.decoder.attend(p, image)[0])[0] for p in proposer.prompts.split(proposer.batch)
    ]
    ranked = torch.cat(ious).sort(descending=True).values.tolist()
    return (ranked[keep - 1] + ranked[keep]) / 2 if keep < len(ranked) else 0.0


def some_bank(channels: int) -> MemoryBank:
    """A memory bank of CLASS_COUNT random prototypes."""
    generator = torch.Generator().manual_seed(0)
    prototypes = F.normalize(torch.randn(CLASS_COUNT, channels, generator=generator) + 0.5, dim=1)
    return MemoryBank(prototypes, list(prototypes[:, None]))


def random_masks(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random blobs of all sizes as logits f32 [M, 256, 256], and random qualities f32 [M]."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(count, 2, generator=generator) * 256
    radius = 6 + torch.rand(count, 2, generator=generator) ** 2 * 80
    axis = torch.arange(256.0)
    x, y = (axis - centre[:, :1]) / radius[:, :1], (axis - centre[:, 1:]) / radius[:, 1:]
    return 1 - x[:, None, :] ** 2 - y[:, :, None] ** 2, torch.rand(count, generator=generator)
