"""COCO's compressed run-length codes, computed with tensor operations so that they can run on a GPU.

A mask [H, W] is read column by column as runs of 0, 1, 0, ... The first run can be empty. From the fourth run on, each
run is stored as the difference to the run two before it. Each number is split into digits of 5 bits, lowest first.
A digit is one character. Its 6th bit means that more digits follow, and the 5th bit of the last digit is the sign.
The codes are the same as those of pycocotools.

Shapes: M masks, R runs of all masks together.
"""

from __future__ import annotations

import torch
from torch import Tensor

DIGITS = 7
"""Number of 5-bit digits needed for any 32-bit number."""


def run_length_codes(masks: Tensor) -> list[bytes]:
    """Encode masks, bool [M, H, W] on any device, as M codes, equal to pycocotools'.

    It waits for the GPU four times, for any M.
    """
    if not masks.numel():
        return [b"0"] * len(masks)
    pixels = masks.transpose(1, 2).flatten(1)
    changes = torch.ones(len(pixels), pixels.shape[1] + 1, dtype=torch.bool, device=masks.device)
    changes[:, 0] = pixels[:, 0]
    changes[:, 1:-1] = pixels[:, 1:] != pixels[:, :-1]
    mask, end = changes.nonzero(as_tuple=True)  # of each run, i64 [R]; the last run ends with the image
    first = torch.searchsorted(mask, torch.arange(len(masks), device=masks.device))
    nth = torch.arange(len(mask), device=masks.device) - first[mask]
    run = end - torch.where(nth > 0, end.roll(1), 0)
    code, length = characters(run - torch.where(nth > 2, run.roll(2), 0))
    total = length.cumsum(0)
    ends = torch.cat([total[first[1:] - 1], total[-1:]]).tolist()
    text = code.cpu().numpy().tobytes()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def characters(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Convert numbers, i64 [R], to their concatenated characters, u8, and the length of each, i64 [R]."""
    place = torch.arange(DIGITS, device=numbers.device)
    digit = (numbers[:, None] >> 5 * place) & 31
    rest = numbers[:, None] >> 5 * (place + 1)
    # A number is complete if the rest is only the sign that the 5th bit of the digit repeats.
    complete = rest == torch.where(digit & 16 > 0, -1, 0)
    length = 1 + (~complete).long().cumprod(dim=1).sum(dim=1)
    more = place + 1 < length[:, None]
    return (48 + digit + 32 * more).to(torch.uint8)[place < length[:, None]], length
