"""The ground-truth masks as proposals, so that all remaining errors are matching errors."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from refexp.masks import LOW_RES, areas, rles_to_low_res
from refexp.proposers.base import Proposer
from refexp.types import MaskProposals, Target


class OracleProposer(Proposer):
    """Returns every ground-truth mask of the chosen classes, with quality 1.

    It separates segmentation errors from matching errors.
    """

    sees_truth = True

    def __init__(self, image_size: Annotated[int, Field(ge=LOW_RES)] = 1024) -> None:
        self.image_size = image_size

    def propose(self, target: Target) -> MaskProposals:
        masks = [mask for mask, area in zip(target.truth, areas(target.truth), strict=True) if area]
        if not masks:
            return MaskProposals(torch.zeros(0), torch.zeros(0, LOW_RES, LOW_RES, dtype=torch.bool), [])
        return MaskProposals(torch.ones(len(masks)), rles_to_low_res(masks), masks)
