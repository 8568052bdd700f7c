"""Mask features: the encoder's feature map averaged under each proposal (METHOD 3.1)."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from refexp.masks import LOW_RES, together


@lru_cache(maxsize=8)
def upsampling_matrix(grid: int, device: torch.device) -> torch.Tensor:
    """The bilinear upsampling from `grid` to 256 samples (align_corners false) as a matrix, f32 [256, grid]."""
    unit = torch.eye(grid, device=device)[:, None]
    return F.interpolate(unit, size=LOW_RES, mode="linear", align_corners=False)[:, 0].T.contiguous()


def pool_masks(masks_lr: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Bool [M, 256, 256] and tokens f32 [G * G, C] -> mask features f32 [M, C], L2-normalised.

    Averaging the upsampled map under a mask equals pooling the mask down with the transposed upsampling and one
    small matrix product, since both are linear: M x 256 x G + M x G^2 x C multiplications instead of 256^2 x C x M.
    Computed where the tokens are.
    """
    up = upsampling_matrix(round(len(tokens) ** 0.5), tokens.device)
    weights, areas = [], []
    for chunk in masks_lr.split(together(masks_lr.shape[1:], tokens.device.type)):
        masks = chunk.to(tokens.device, torch.float32)
        weights.append(torch.einsum("myx,yi,xj->mij", masks, up, up).flatten(1))
        areas.append(masks.sum(dim=(1, 2)))
    return F.normalize((torch.cat(weights) @ tokens) / torch.cat(areas)[:, None], dim=1)
