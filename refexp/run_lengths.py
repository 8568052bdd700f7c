"""COCO's compressed run-length codes written with tensor operations, so that a GPU can make them.

A mask [H, W] is read column by column as runs of 0, 1, 0, ...; the first may be empty. From the fourth on, a run is
written as its difference to the run two before. Each number is cut into digits of 5 bits, lowest first. A digit is one
character; its 6th bit says that more follow, and the 5th bit of the last is the sign. pycocotools codes the same way.

Shapes: M masks, R runs of all masks together.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIGITS = 7
"""Digits of 5 bits that hold any 32-bit number."""


def run_length_codes(masks: Tensor) -> list[bytes]:
    """Bool [M, H, W] on any device -> M codes, equal to pycocotools'. A GPU is waited for four times, for any M."""
    if not masks.numel():
        return [b"0"] * len(masks)
    pixels = masks.transpose(1, 2).flatten(1)
    changes = torch.ones(len(pixels), pixels.shape[1] + 1, dtype=torch.bool, device=masks.device)
    changes[:, 0] = pixels[:, 0]
    changes[:, 1:-1] = pixels[:, 1:] != pixels[:, :-1]
    mask, end = changes.nonzero(as_tuple=True)  # of each run, i64 [R]; the end of the image ends the last
    first = torch.searchsorted(mask, torch.arange(len(masks), device=masks.device))
    nth = torch.arange(len(mask), device=masks.device) - first[mask]
    run = end - torch.where(nth > 0, end.roll(1), 0)
    code, length = characters(run - torch.where(nth > 2, run.roll(2), 0))
    total = length.cumsum(0)
    ends = torch.cat([total[first[1:] - 1], total[-1:]]).tolist()
    text = code.cpu().numpy().tobytes()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def characters(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers i64 [R] -> their characters end to end, u8, and how many each takes, i64 [R]."""
    place = torch.arange(DIGITS, device=numbers.device)
    digit = (numbers[:, None] >> 5 * place) & 31
    rest = numbers[:, None] >> 5 * (place + 1)
    complete = rest == torch.where(digit & 16 > 0, -1, 0)
    length = 1 + (~complete).long().cumprod(dim=1).sum(dim=1)
    more = place + 1 < length[:, None]
    return (48 + digit + 32 * more).to(torch.uint8)[place < length[:, None]], length
