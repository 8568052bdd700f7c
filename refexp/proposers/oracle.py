"""The ground-truth masks as proposals, so that all remaining errors are matching errors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from refexp.masks import LOW_RES
from refexp.proposers.base import Proposer, proposals_of
from refexp.types import MaskProposals, Target


class OracleProposer(Proposer):
    """Returns every ground-truth mask of the chosen classes, with quality 1.

    It separates segmentation errors from matching errors.
    """

    sees_truth = True

    def __init__(self, image_size: Annotated[int, Field(ge=LOW_RES)] = 1024) -> None:
        self.image_size = image_size

    def propose(self, target: Target) -> MaskProposals:
        return proposals_of([1.0] * len(target.truth), target.truth)
