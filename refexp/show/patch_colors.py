"""Patch features as colors, by principal component analysis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

MOST = 20_000
"""Approximate number of patches used to compute the principal components."""


def feature_colors(references: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[np.ndarray]:
    """Patch features as colors, f32 [G, G, 3] in [0, 1] per reference. Patches outside the mask are pale.

    references: for each, the tokens f32 [G * G, C] and the mask's weight on each patch f32 [G * G]. G and C are the
    same for all. The colors are the first three principal components of the patches under all masks. Each component is
    scaled from its 2nd to its 98th percentile. Signs are fixed, so that equal features give equal pictures.
    """
    inside = torch.cat([tokens[weights >= min(0.5, float(weights.max()))] for tokens, weights in references])
    # A regular subsample is enough, and all patches of 40 large references would need a gigabyte.
    inside = inside[:: max(1, len(inside) // MOST)].double()
    centre = inside.mean(dim=0)
    _, vectors = torch.linalg.eigh((inside - centre).T @ (inside - centre))
    axes = vectors[:, -3:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    low, high = torch.quantile((inside - centre) @ axes, inside.new_tensor([0.02, 0.98]), dim=0)
    pictures = []
    for tokens, weights in references:
        side = round(len(tokens) ** 0.5)
        shade = (((tokens.double() - centre) @ axes - low) / (high - low).clamp(min=1e-9)).clamp(0, 1)
        shade = F.pad(shade, (0, 3 - shade.shape[1]), value=0.5)
        strength = (0.25 + 0.75 * weights.clamp(0, 1))[:, None].double()
        pictures.append((shade * strength + 1 - strength).reshape(side, side, 3).float().numpy())
    return pictures
