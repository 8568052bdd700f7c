"""The ground-truth masks as proposals: what is left to lose is matching alone."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from refexp.masks import LOW_RES, areas, decode, to_low_res
from refexp.proposers.base import Proposer
from refexp.types import MaskProposals, Target


class OracleProposer(Proposer):
    """Every ground-truth mask of the chosen classes, quality 1: splits segmentation error from matching error."""

    sees_truth = True

    def __init__(self, image_size: Annotated[int, Field(ge=LOW_RES)] = 1024) -> None:
        self.image_size = image_size

    def propose(self, target: Target) -> MaskProposals:
        masks = [mask for mask, area in zip(target.truth, areas(target.truth), strict=True) if area]
        if not masks:
            return MaskProposals(torch.zeros(0), torch.zeros(0, LOW_RES, LOW_RES, dtype=torch.bool), [])
        return MaskProposals(torch.ones(len(masks)), to_low_res(decode(masks)), masks)
