"""Cosines of mask features and single references, shared by several matchers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from refexp.types import MemoryBank, Proposals


def per_class(
    proposals: Proposals, bank: MemoryBank, aggregate: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Aggregate the cosines to the references of each class, f32 [M, S_k] -> f32 [M]. Returns f32 [M, K]."""
    cosines = [proposals.features @ F.normalize(rows, dim=1).T for rows in bank.instances]
    return torch.stack([aggregate(of_class) for of_class in cosines], dim=1)
