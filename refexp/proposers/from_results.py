"""What the proposers that read a COCO results file share."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import torch

from refexp.inputs.results import Results
from refexp.proposers.base import Proposer
from refexp.types import ImageId


class ResultsProposer(Proposer, ABC):
    """Reads its proposals from the results file `file`. field: what each of its records must have."""

    inert = Proposer.inert | {"file"}
    """`provenance` has the hash of its content."""
    reads_ids = True
    field: ClassVar[Literal["bbox", "segmentation"]]
    file: Path

    @cached_property
    def results(self) -> Results:
        """The records of the file, which is read once."""
        return Results(self.file, self.field)

    def check(self, image_ids: Collection[ImageId]) -> None:
        self.results.check(image_ids)

    def load(self, device: torch.device) -> None:
        _ = self.results
