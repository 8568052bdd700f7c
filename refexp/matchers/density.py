"""Matching with kernel densities of the references' foreground and background patches on the sphere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from refexp.matchers.base import SimilarityMatcher
from refexp.matchers.calibration import squash
from refexp.matchers.patches import PerClass, background, foreground, require_background
from refexp.types import MemoryBank, Patches, Proposals

KAPPAS = tuple(2.0**power for power in range(1, 13))
"""The concentrations that the leave-one-out likelihood chooses from."""


@dataclass(frozen=True)
class Densities:
    """Foreground and background of a class. Both densities use the same kernel.

    foreground: unit tokens f32 [n, C] with weights f32 [n]. background: unit tokens f32 [b, C]. kappa: concentration.
    """

    foreground: torch.Tensor
    weights: torch.Tensor
    background: torch.Tensor
    kappa: float


@dataclass(eq=False, kw_only=True)
class DensityMatcher(SimilarityMatcher):
    """The similarity is the log-ratio of two densities at the mask feature, squashed to (0, 1).

    Equal densities give 0.5. The densities are von Mises-Fisher kernel density estimates from the patches of the
    class's references: those under the masks, and those of the background. Background is
    defined as in `BackgroundMatcher`.
    On pooled features: FROST evaluates each patch, then takes the mean over the mask. Here the mask's pooled feature is
    evaluated once. This needs no tokens of the target.
    kappa: concentration of the kernel, larger is narrower. None chooses it per class by the leave-one-out likelihood
        of the foreground patches (not FROST's rule). It leaves out whole references, because neighboring patches of
        one image are alike; with a single reference, it leaves out single patches.
    Source: FROST, arXiv 2606.31136.
    Cost: one forward pass per reference in each run. Then O(M * n * C) per image and class, for n patches of the
    class's references (G * G for each): many references are slow.
    Raises RefexpError with the class whose references show no background.
    """

    needs_patches: ClassVar[bool] = True

    kappa: Annotated[float, Field(gt=0)] | None = None

    def __post_init__(self) -> None:
        self.densities = PerClass(self.fit)

    def fit(self, patches: Sequence[Patches]) -> Densities:
        """Collect the patches of a class and choose kappa."""
        kappa = self.kappa or max(KAPPAS, key=lambda kappa: left_out_likelihood(patches, kappa))
        return Densities(*foreground(patches), background(patches), kappa)

    def similarity(self, proposals: Proposals, bank: MemoryBank) -> torch.Tensor:
        """Compute the squashed log-ratios, f32 [M, K]."""
        require_background(bank)
        features, ratios = proposals.features, []
        for d in self.densities(bank):
            # With one kappa for both, the normalizing constant of the kernel cancels.
            inside = log_kernel_mean(features @ d.foreground.T, d.weights, d.kappa)
            ratios.append(inside - log_kernel_mean(features @ d.background.T, torch.ones(len(d.background)), d.kappa))
        return squash(torch.stack(ratios, dim=1))


def log_kernel_mean(cosines: torch.Tensor, weights: torch.Tensor, kappa: float) -> torch.Tensor:
    """Log of the weighted mean of exp(kappa * cosine): cosines f32 [m, n], weights f32 [n] -> f32 [m]."""
    return (kappa * cosines + (weights / weights.sum()).log()).logsumexp(dim=1)


def left_out_likelihood(patches: Sequence[Patches], kappa: float) -> float:
    """Mean log density of the foreground patches, each under the patches of the other references."""
    # Copies of a reference do not count: a copy would be its own best neighbor.
    copies = [any(torch.equal(p.tokens, before.tokens) for before in patches[:row]) for row, p in enumerate(patches)]
    patches = [p for p, copy in zip(patches, copies, strict=True) if not copy]
    tokens, weights = foreground(patches)
    own = torch.cat([torch.full((int((p.weights > 0).sum()),), row) for row, p in enumerate(patches)])
    own = own if len(patches) > 1 else torch.arange(len(tokens))
    if len(own.unique()) < 2:
        return 0.0  # a single patch: every kappa is as good
    total = torch.zeros(())
    for group in own.unique():
        rest = own != group
        log_mean = log_kernel_mean(tokens[~rest] @ tokens[rest].T, weights[rest], kappa)
        total += (weights[~rest] * log_mean).sum()
    return float(total / weights.sum()) + log_normalizer(kappa, tokens.shape[1])


def log_normalizer(kappa: float, dimensions: int) -> float:
    """Log of the constant of the von Mises-Fisher density on the unit sphere in `dimensions` >= 3 dimensions.

    log C = v log(kappa) - (v + 1) log(2 pi) - log I_v(kappa) with v = dimensions / 2 - 1. The Bessel function comes
    from its uniform expansion for large orders with one correction (DLMF 10.41.3): libraries underflow at order 500.
    """
    order = dimensions / 2 - 1
    ratio = kappa / order
    root = math.sqrt(1 + ratio**2)
    correction = 1 + (3 / root - 5 / root**3) / (24 * order)
    log_bessel = order * (root + math.log(ratio / (1 + root))) - 0.5 * math.log(2 * math.pi * order * root)
    return order * math.log(kappa) - (order + 1) * math.log(2 * math.pi) - log_bessel - math.log(correction)
