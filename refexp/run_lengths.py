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

LIMITS = [16 << 5 * place for place in range(6)]
"""Numbers from -LIMITS[n] to LIMITS[n] - 1 need at most n + 1 digits. A number has at most 32 bits."""


def run_length_codes(masks: Tensor) -> list[bytes]:
    """Encode masks, bool [M, H, W] on any device, as M codes, equal to pycocotools'.

    It waits for the GPU four times, for any M. Memory grows with the pixels, and with 100 bytes a run.
    """
    if not masks.numel():
        return [b"0"] * len(masks)
    pixels = masks.transpose(1, 2).flatten(1)
    changes = pixels.new_ones(len(pixels), pixels.shape[1] + 1)
    changes[:, 0] = pixels[:, 0]
    torch.ne(pixels[:, 1:], pixels[:, :-1], out=changes[:, 1:-1])
    end = changes.flatten().nonzero()[:, 0]  # of each run, i64 [R]; the last run ends with the image
    mask = end // changes.shape[1]
    starts = mask.diff(prepend=mask.new_tensor([-1])) > 0  # whether a run is the first of its mask
    run = end.diff(prepend=end.new_tensor([-1])) - starts.long()
    number = run.clone()
    number[3:] -= torch.where(mask[3:] == mask[:-3], run[1:-2], 0)
    code, code_end = characters(number.int())
    ends = code_end[starts.roll(-1)].tolist()
    text = code.cpu().numpy().tobytes()
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def characters(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Convert numbers, i32 [R], to their concatenated characters, u8, and the end of each in them, i64 [R]."""
    size = numbers ^ (numbers >> 31)  # -1 - number if it is negative
    length = 1 + torch.bucketize(size, size.new_tensor(LIMITS), right=True)
    end = length.cumsum(0)
    which = torch.repeat_interleave(length, output_size=int(end[-1]))  # the number that each character belongs to
    place = torch.arange(len(which), device=which.device) - (end - length)[which]
    digit = (numbers[which] >> 5 * place.int()) & 31
    more = place + 1 < length[which]
    return (48 + digit + 32 * more).to(torch.uint8), end
