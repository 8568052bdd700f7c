"""The proposals of several proposers together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from pydantic import InstanceOf

from refexp.inputs.images import to_square
from refexp.machine.networks import load_network
from refexp.masks import Rle
from refexp.proposers.base import Proposer, together
from refexp.types import ImageId, MaskProposals, Target, Weights


class UnionProposer(Proposer):
    """Returns the proposals of all parts, in the order of the parts' names.

    parts: proposers by name; None leaves one out. Each part sees the image at its own size. The encoder sees the
        largest of these sizes. Masks that several parts find stay several proposals, which the postprocessing merges.
    Qualities are not made comparable between parts.
    Masks of references with only a box come from the first part that can make them.
    Cost: that of all parts, and a resized image for each part with a smaller size.
    Raises ValueError if there are no parts.
    """

    def __init__(self, parts: Mapping[str, InstanceOf[Proposer] | None]) -> None:
        self.parts = {name: part for name, part in sorted(parts.items()) if part is not None}
        if not self.parts:
            raise ValueError("parts: at least one proposer is needed")
        self.image_size = max(part.image_size for part in self.parts.values())
        self.sees_truth = any(part.sees_truth for part in self.parts.values())
        self.reads_ids = any(part.reads_ids for part in self.parts.values())

    def provenance(self) -> Weights:
        return together([part.provenance() for part in self.parts.values()])

    def check(self, image_ids: Collection[ImageId]) -> None:
        for part in self.parts.values():
            part.check(image_ids)

    def load(self, device: torch.device) -> None:
        for part in self.parts.values():
            load_network(part, device)

    @property
    def mask_maker(self) -> Proposer | None:
        return next((maker for part in self.parts.values() if (maker := part.mask_maker)), None)

    def masks_in_boxes(self, target: Target, boxes: torch.Tensor) -> list[Rle]:
        maker = self.mask_maker
        return maker.masks_in_boxes(_for(maker, target), boxes) if maker else super().masks_in_boxes(target, boxes)

    def propose(self, target: Target) -> MaskProposals:
        found = [part.propose(_for(part, target)) for part in self.parts.values()]
        return MaskProposals(
            torch.cat([proposals.quality.cpu() for proposals in found]),
            torch.cat([proposals.masks_lr.cpu() for proposals in found]),
            [mask for proposals in found for mask in proposals.masks],
        )


def _for(part: Proposer, target: Target) -> Target:
    """Return the target at the size that a part wants."""
    if target.square.shape[-1] == part.image_size:
        return target
    return replace(target, square=to_square(target.rgb, part.image_size))
