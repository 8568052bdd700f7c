"""The boxes of any detector as proposals, with one mask for each box."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, InstanceOf

from refexp.files import sha256
from refexp.inputs.geometry import beside, clipped, extent_of_box
from refexp.inputs.results import existing_file
from refexp.machine.networks import load_network
from refexp.masks import Rle, areas, box_mask
from refexp.proposers.base import Proposer, proposals_of, together
from refexp.proposers.from_results import ResultsProposer
from refexp.types import MaskProposals, Target, Weights


class BoxProposer(ResultsProposer):
    """Reads boxes from a COCO results file. Another proposer makes one mask for each box.

    file: records with image_id, bbox (`x y w h` in pixels) and score in [0, 1]. The classes in it are ignored. The
        image ids are those of the targets; of photos, their paths relative to the folder. An image without boxes gets
        no proposals. The quality of a proposal is the score of its box. Boxes are clipped to the image.
    masks: the proposer that makes the masks. If it finds none in a box, the box itself is the mask.
    k: number of boxes of each image, by score.
    Cost: the masks of k boxes, and k masks resized to 256 x 256. `check` or `load`, whichever comes first,
        reads the whole file.
    Raises MissingData if the file does not exist, and ValueError if `masks` cannot make masks from boxes. `check` and
    `load` raise RefexpError for a malformed file. `check` raises it if the file has no record of any target.
    """

    field = "bbox"

    def __init__(self, file: str, masks: InstanceOf[Proposer], k: Annotated[int, Field(ge=1)] = 100) -> None:
        if masks.mask_maker is None:
            raise ValueError(f"masks: {type(masks).__name__} cannot make masks from boxes; choose SAM2 or regions")
        self.file, self.masks, self.k = existing_file(file), masks, k
        self.image_size = masks.image_size

    def provenance(self) -> Weights:
        boxes = Weights(f"boxes of {self.file.name}", self.file, sha256(self.file))
        return together([boxes, self.masks.provenance()])

    def load(self, device: torch.device) -> None:
        super().load(device)
        load_network(self.masks, device)

    @property
    def mask_maker(self) -> Proposer | None:
        return self.masks.mask_maker

    def masks_in_boxes(self, target: Target, boxes: torch.Tensor) -> list[Rle]:
        return self.masks.masks_in_boxes(target, boxes)

    def propose(self, target: Target) -> MaskProposals:
        found = [(record["score"], extent_of_box(record["bbox"])) for record in self.results.best(target.id, self.k)]
        inside = [(score, clipped(box, *target.size)) for score, box in found if not beside(box, *target.size)]
        if not inside:
            return proposals_of([], [])
        boxes = torch.tensor([box for _, box in inside], dtype=torch.float32)
        masks = self.masks.masks_in_boxes(target, boxes)
        for row in (areas(masks) == 0).nonzero()[0]:
            x1, y1, x2, y2 = inside[row][1]
            masks[row] = box_mask((x1, y1, x2 - x1, y2 - y1), target.size)
        return proposals_of([score for score, _ in inside], masks)
