"""What the overlap of masks holds for every pair, as matrices."""

from __future__ import annotations

import numpy as np
import torch

from refexp.types import Proposals


def coverage(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """|m_i AND m_j| / |m_i| of the proposals at `index`, f32 [N, N], exactly, from the run-length codes."""
    rows, overlap = index.numpy(), proposals.overlap
    low, high, pixels = overlap.sharing(rows, np.array([0, len(rows)]))
    area = overlap.areas(rows)
    found = np.diag((area > 0).astype(np.float64))
    found[low, high], found[high, low] = pixels / area[low], pixels / area[high]
    return torch.from_numpy(found).float()


def likeness(proposals: Proposals, index: torch.Tensor) -> torch.Tensor:
    """max(0, cosine) of the features of the proposals at `index`, f64 [N, N]."""
    rows = index.numpy()
    cosine = proposals.overlap.cosine(np.repeat(rows, len(rows)), np.tile(rows, len(rows)))
    return torch.from_numpy(cosine).clamp(min=0).reshape(len(rows), len(rows))
