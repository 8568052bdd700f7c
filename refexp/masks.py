"""Masks: run-length codes, boxes, and resizing between 256 x 256 and the original size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as coco_mask

from refexp.run_lengths import run_length_codes

LOW_RES = 256
"""Side of the low-resolution masks (SAM2's decoder output)."""

Rle = dict[str, Any]
"""Compressed COCO run-length encoding: `{"size": [H, W], "counts": bytes}`."""

AT_ONCE = {"cpu": (32, 1 << 23), "cuda": (128, 1 << 27)}
"""Maximum number of masks and of pixels resized together. They limit the memory to 32 MiB of floats in each thread of a
CPU, and to 512 MiB on a GPU."""


def encode(masks: np.ndarray) -> list[Rle]:
    """Encode masks: bool or u8 [M, H, W] -> M compressed RLEs."""
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))


def to_json(rle: Rle) -> dict[str, Any]:
    """Convert an RLE to the form in COCO JSON files, with its counts as a string."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rles: Sequence[Rle]) -> np.ndarray:
    """Decode M compressed RLEs of the same size to bool [M, H, W]."""
    return np.ascontiguousarray(coco_mask.decode(list(rles)).transpose(2, 0, 1)).astype(bool)


def decode_inside(rle: Rle) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Decode the part of a mask in its tight box: bool [h, w], and the rows and columns of the image that it covers."""
    x, y, w, h = (int(side) for side in boxes_xywh([rle])[0])
    place = slice(y, y + h), slice(x, x + w)
    return coco_mask.decode(rle)[place].astype(bool), place


def areas(rles: Sequence[Rle]) -> np.ndarray:
    """Count the pixels of each mask, u32 [M]."""
    # pycocotools 2.0.11 cannot count more than 255 masks at once under numpy 2.
    pieces = [coco_mask.area(list(rles[i : i + 255])) for i in range(0, len(rles), 255)]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint32)


def box_mask(box_xywh: Sequence[float], size: tuple[int, int]) -> Rle:
    """Make a mask of a box at `size` = (H, W)."""
    x, y, w, h = box_xywh
    return coco_mask.frPyObjects([[x, y, x, y + h, x + w, y + h, x + w, y]], *size)[0]


def boxes_xywh(rles: Sequence[Rle]) -> np.ndarray:
    """Compute the tight boxes `x y w h` in pixels, f64 [M, 4]. An empty mask gives zeros."""
    return coco_mask.toBbox(list(rles)) if len(rles) else np.zeros((0, 4))


def upscale_to_rle(logits: torch.Tensor, size: tuple[int, int]) -> list[Rle]:
    """Upscale logits, f32 [M, 256, 256], to M RLEs at `size` = (H, W) (METHOD 4.1).

    The resize is bilinear and antialiased. The mask is where the result is > 0.
    """
    rles: list[Rle] = []
    for chunk in logits.split(together(size, logits.device.type)):
        full = F.interpolate(chunk[:, None].float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        rles += encode_positive(full[:, 0])
    return rles


def together(size: Sequence[int], device: str = "cpu") -> int:
    """Return how many masks of `size` = (H, W) are resized at a time."""
    masks, pixels = AT_ONCE[device]
    return max(1, min(masks, pixels // (size[0] * size[1])))


def encode_positive(logits: torch.Tensor) -> list[Rle]:
    """Encode where logits, f32 [M, H, W], are > 0, as M compressed RLEs, on the device of the logits.

    On a GPU, copying and encoding the full-size masks would take longer than all previous steps. On a CPU, pycocotools
    is two to three times faster than `run_length_codes`.
    """
    if logits.device.type != "cpu":
        return [{"size": list(logits.shape[1:]), "counts": code} for code in run_length_codes(logits > 0)]
    count, height, width = logits.shape
    columns = torch.empty(count, width, height, dtype=torch.bool)  # the order of the codes, so encoding does not copy
    torch.gt(logits.transpose(1, 2), 0, out=columns)
    return coco_mask.encode(columns.numpy().view(np.uint8).transpose(2, 1, 0))


def in_both(masks_lr: torch.Tensor, masks: Sequence[Rle]) -> list[int]:
    """Return the rows whose masks are empty neither in masks_lr, bool [M, 256, 256], nor at the original size."""
    if not len(masks):
        return []
    (empty,) = encode(np.zeros((1, *masks[0]["size"]), dtype=np.uint8))
    seen = masks_lr.flatten(1).any(dim=1).tolist()
    return [i for i, mask in enumerate(masks) if seen[i] and mask["counts"] != empty["counts"]]


def low_res_boxes(masks_lr: torch.Tensor) -> torch.Tensor:
    """Compute the tight boxes of masks: bool [M, h, w] -> f32 [M, 4].

    `x1 y1 x2 y2` are pixel indices (x2, y2 inclusive). An empty mask gives zeros.
    """
    first, last = [], []
    for across in (1, 2):  # x, then y
        hit = masks_lr.any(dim=across).float()
        first.append(hit.argmax(dim=1))
        last.append(hit.shape[1] - 1 - hit.flip(1).argmax(dim=1))
    boxes = torch.stack(first + last, dim=1).float()
    return boxes * masks_lr.flatten(1).any(dim=1, keepdim=True)


def to_low_res(masks: np.ndarray) -> torch.Tensor:
    """Downscale exact masks, bool [M, H, W], to bool [M, 256, 256]. A pixel is set if at least half of it is covered.

    If a mask is too thin or too small to cover half of any pixel, the pixels that it covers most are set. So no mask
    becomes empty.
    """
    if not len(masks):
        return torch.zeros(0, LOW_RES, LOW_RES, dtype=torch.bool)
    found = []
    for chunk in torch.from_numpy(masks).split(together(masks.shape[1:])):
        coverage = F.adaptive_avg_pool2d(chunk.float()[:, None], LOW_RES)[:, 0]
        threshold = coverage.flatten(1).amax(dim=1).clamp(max=0.5)[:, None, None]
        found.append((coverage >= threshold) & (coverage > 0))
    return torch.cat(found)


def rles_to_low_res(rles: Sequence[Rle]) -> torch.Tensor:
    """Downscale M > 0 RLEs of the same size like `to_low_res`. Only some are decoded at a time."""
    count = together(rles[0]["size"])
    return torch.cat([to_low_res(decode(rles[start : start + count])) for start in range(0, len(rles), count)])


def grid_shares(rles: Sequence[Rle], grid: int) -> torch.Tensor:
    """Compute the share of each patch that M RLEs of the same size cover, f32 [M, grid * grid], row by row."""
    if not len(rles):
        return torch.zeros(0, grid * grid)
    count, found = together(rles[0]["size"]), []
    for start in range(0, len(rles), count):
        masks = torch.from_numpy(decode(rles[start : start + count])).float()
        found.append(F.adaptive_avg_pool2d(masks, grid).flatten(1))
    return torch.cat(found)
