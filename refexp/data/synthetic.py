"""Synthetic scenes as a dataset: no download, exact masks, any number of images."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import Field

from refexp.data.coco import Data, Record, Split, make_split
from refexp.data.rendering import CLASSES, render_split
from refexp.errors import RefexpError, did_you_mean

# The jobs of a multirun share a process, so the cache saves them drawing the same images again.
draw_split = lru_cache(maxsize=4)(render_split)


class SyntheticDataset:
    """Scenes of textured objects and clutter, drawn from `seed`.

    references, targets: number of images in each split. classes: classes to draw, in this order. None draws all.
    Drawing takes about 20 ms per image.
    """

    def __init__(
        self,
        seed: Annotated[int, Field(ge=0)] = 0,
        references: Annotated[int, Field(ge=1)] = 96,
        targets: Annotated[int, Field(ge=1)] = 32,
        classes: list[str] | None = None,
    ) -> None:
        for name in classes or ():
            if name not in CLASSES:
                raise RefexpError(f"dataset.classes: unknown class '{name}'. {did_you_mean(name, CLASSES)}")
        if len(set(classes or ())) < len(classes or ()):
            raise RefexpError(f"dataset.classes: list each class only once; not {classes}.")
        self.seed, self.references, self.targets = seed, references, targets
        self.classes = tuple(classes or CLASSES)

    def load(self) -> Data:
        """Draw both splits."""
        return Data(self.classes, self._split("references", self.references), self._split("targets", self.targets))

    def _split(self, name: str, images: int) -> Split:
        pictures, content = draw_split(self.seed, self.classes, images, name)

        def read(record: Record) -> np.ndarray:
            return pictures[record["id"] - 1]

        def fingerprint(record: Record) -> str:
            return hashlib.sha256(read(record).tobytes()).hexdigest()

        return make_split(content, f"SYNTHETIC {name}", self.classes, read, fingerprint)
