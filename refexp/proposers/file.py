"""Masks from a file as proposals."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from refexp.data.coco import annotation_rle
from refexp.errors import RefexpError
from refexp.files import sha256
from refexp.inputs.results import existing_file
from refexp.masks import LOW_RES
from refexp.proposers.base import proposals_of
from refexp.proposers.from_results import ResultsProposer
from refexp.types import MaskProposals, Target, Weights


class FileProposer(ResultsProposer):
    """Reads masks from a COCO results file, for example the detections.json of another run.

    file: records with image_id, score in [0, 1], and segmentation (polygons or RLE at the size of the image). The
        classes in it are ignored. The image ids are those of the targets; of photos, their paths relative to the
        folder. An image without masks gets no proposals. The quality of a proposal is its score. Empty masks are left
        out.
    k: number of masks of each image, by score. None takes all.
    image_size: side of the square that the encoder sees of a target.
    Cost: each mask is resized to 256 x 256. `check` or `load`, whichever comes first, reads the whole file.
    Raises MissingData if the file does not exist. `check`, `load` and `propose` raise RefexpError for a malformed file
    or mask. `check` raises it if the file has no record of any target.
    """

    field = "segmentation"

    def __init__(
        self,
        file: str,
        k: Annotated[int, Field(ge=1)] | None = None,
        image_size: Annotated[int, Field(ge=LOW_RES)] = 1024,
    ) -> None:
        self.file, self.k, self.image_size = existing_file(file), k, image_size

    def provenance(self) -> Weights:
        return Weights(f"masks of {self.file.name}", self.file, sha256(self.file))

    def propose(self, target: Target) -> MaskProposals:
        scores, masks = [], []
        for record in self.results.best(target.id, self.k):
            try:
                masks.append(annotation_rle(record, *target.size))
            except ValueError as error:
                raise RefexpError(f"{self.file}: record {record['id']} {error}") from None
            scores.append(record["score"])
        return proposals_of(scores, masks)
