"""Masks: run-length codes, boxes, and the way between 256 x 256 and the original size."""

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

CHUNK, PIXELS = 32, 1 << 25
"""Masks upscaled at a time, and pixels: bounds memory to some 128 MiB of floats."""


def encode(masks: np.ndarray) -> list[Rle]:
    """Bool or u8 [M, H, W] -> M compressed RLEs."""
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))


def to_json(rle: Rle) -> dict[str, Any]:
    """An RLE as COCO files hold it, its counts as text."""
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode(rles: Sequence[Rle]) -> np.ndarray:
    """M compressed RLEs of one size -> bool [M, H, W]."""
    return np.ascontiguousarray(coco_mask.decode(list(rles)).transpose(2, 0, 1)).astype(bool)


def areas(rles: Sequence[Rle]) -> np.ndarray:
    """Pixels in each mask, u32 [M]."""
    # pycocotools 2.0.11 cannot count more than 255 masks at once under numpy 2.
    pieces = [coco_mask.area(list(rles[i : i + 255])) for i in range(0, len(rles), 255)]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint32)


def box_mask(box_xywh: Sequence[float], size: tuple[int, int]) -> Rle:
    """A box as a mask at `size` = (H, W)."""
    x, y, w, h = box_xywh
    return coco_mask.frPyObjects([[x, y, x, y + h, x + w, y + h, x + w, y]], *size)[0]


def boxes_xywh(rles: Sequence[Rle]) -> np.ndarray:
    """Tight boxes `x y w h` in pixels, f64 [M, 4]; zeros for an empty mask."""
    return coco_mask.toBbox(list(rles)) if len(rles) else np.zeros((0, 4))


def upscale_to_rle(logits: torch.Tensor, size: tuple[int, int]) -> list[Rle]:
    """f32 [M, 256, 256] logits -> M RLEs at `size` = (H, W): bilinear with antialias, then `> 0` (METHOD 4.1)."""
    rles: list[Rle] = []
    for chunk in logits.split(max(1, min(CHUNK, PIXELS // (size[0] * size[1])))):
        full = F.interpolate(chunk[:, None].float(), size=size, mode="bilinear", align_corners=False, antialias=True)
        rles += encode_positive(full[:, 0])
    return rles


def encode_positive(logits: torch.Tensor) -> list[Rle]:
    """f32 [M, H, W] -> M compressed RLEs of where it is > 0, made on the device of the logits.

    From a GPU, full-size masks would take longer to copy and encode than everything before took to compute. On a CPU
    pycocotools encodes two to three times faster than `run_length_codes`.
    """
    if logits.device.type != "cpu":
        return [{"size": list(logits.shape[1:]), "counts": code} for code in run_length_codes(logits > 0)]
    count, height, width = logits.shape
    columns = torch.empty(count, width, height, dtype=torch.bool)  # as the codes run, so nothing is copied to encode it
    torch.gt(logits.transpose(1, 2), 0, out=columns)
    return coco_mask.encode(columns.numpy().view(np.uint8).transpose(2, 1, 0))


def in_both(masks_lr: torch.Tensor, masks: Sequence[Rle]) -> list[int]:
    """The rows whose mask has a pixel at 256 x 256, bool [M, 256, 256], and at the original size."""
    if not len(masks):
        return []
    (nothing,) = encode(np.zeros((1, *masks[0]["size"]), dtype=np.uint8))
    seen = masks_lr.flatten(1).any(dim=1).tolist()
    return [i for i, mask in enumerate(masks) if seen[i] and mask["counts"] != nothing["counts"]]


def low_res_boxes(masks_lr: torch.Tensor) -> torch.Tensor:
    """Bool [M, h, w] -> f32 [M, 4] tight boxes, `x1 y1 x2 y2` being pixel indices (x2, y2 inclusive); 0 if empty."""
    first, last = [], []
    for across in (1, 2):  # x, then y
        hit = masks_lr.any(dim=across).float()
        first.append(hit.argmax(dim=1))
        last.append(hit.shape[1] - 1 - hit.flip(1).argmax(dim=1))
    boxes = torch.stack(first + last, dim=1).float()
    return boxes * masks_lr.flatten(1).any(dim=1, keepdim=True)


def to_low_res(masks: np.ndarray) -> torch.Tensor:
    """Exact masks, bool [M, H, W] -> bool [M, 256, 256]: a low-resolution pixel is set where half of it is covered.

    A mask too thin or too small to cover half of any pixel keeps the pixels it covers most, so none vanishes.
    """
    if not len(masks):
        return torch.zeros(0, LOW_RES, LOW_RES, dtype=torch.bool)
    coverage = F.adaptive_avg_pool2d(torch.from_numpy(masks).float()[:, None], LOW_RES)[:, 0]
    threshold = coverage.flatten(1).amax(dim=1).clamp(max=0.5)[:, None, None]
    return (coverage >= threshold) & (coverage > 0)
