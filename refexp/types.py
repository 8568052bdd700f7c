"""The nouns of an experiment.

Shape notation, used in every docstring:

    H, W   original size of an image          M   mask proposals in an image
    S      side of the square target input    N   candidates (proposal, class) of an image
    K      classes                            C   encoder channels
    G      side of the encoder's feature grid (37 for DINOv2 at 518 px)

Low-resolution masks are 256 x 256. Boxes are `x1 y1 x2 y2` in pixels unless a name says `xywh`.
Masks at the original size are COCO run-length encodings (RLE), which are small and exact.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from refexp.errors import RefexpError
from refexp.masks import Rle, boxes_xywh, decode, to_json

ImageId = int | str


@dataclass(frozen=True)
class Target:
    """One target image as the networks see it (METHOD 2.1).

    rgb: u8 [H, W, 3]; square: f32 [3, S, S] in [0, 1].
    truth: ground-truth masks of the chosen classes; only the oracle proposer may look at them.
    """

    id: ImageId
    rgb: np.ndarray
    square: torch.Tensor
    truth: tuple[Rle, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Original (H, W)."""
        return int(self.rgb.shape[0]), int(self.rgb.shape[1])


@dataclass(frozen=True)
class Reference:
    """An annotated instance that teaches its class (METHOD 0).

    id, image_id: the annotation's and its image's. label: class index in [0, K). box: `x y w h` in pixels.
    mask: RLE at the image's size; None where only a box is annotated, until the proposer has made one.
    """

    id: ImageId
    image_id: ImageId
    label: int
    box: tuple[float, float, float, float]
    mask: Rle | None

    @property
    def known_mask(self) -> Rle:
        """The mask; it must be there."""
        assert self.mask is not None, "references are completed before they are used"
        return self.mask


@dataclass(frozen=True)
class MaskProposals:
    """What a proposer finds in one image, before any class is known.

    quality: f32 [M], the proposer's own confidence in [0, 1] (SAM2: predicted IoU).
    masks_lr: bool [M, 256, 256], the image squeezed to a square; on whatever device made them.
    masks: M RLEs at the original H x W.
    """

    quality: torch.Tensor
    masks_lr: torch.Tensor
    masks: list[Rle]

    def __len__(self) -> int:
        return len(self.masks)

    def pick(self, rows: Sequence[int] | np.ndarray) -> MaskProposals:
        """The proposals at `rows`, in that order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return MaskProposals(self.quality[index], self.masks_lr[index], [self.masks[i] for i in index.tolist()])


@dataclass(frozen=True)
class Proposals:
    """All that matching and merging need of one image; what the expensive half of a run yields.

    quality: f32 [M]; boxes_lr: f32 [M, 4] tight boxes on the 256 x 256 grid;
    features: f32 [M, C], L2-normalised (METHOD 3.1); masks: M RLEs; size: (H, W).
    """

    quality: torch.Tensor
    boxes_lr: torch.Tensor
    features: torch.Tensor
    masks: list[Rle]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.masks)


@dataclass(frozen=True)
class MemoryBank:
    """What the references taught (METHOD 1.5).

    prototypes: f32 [K, C], L2-normalised; instances: per class f32 [S_k, C], one row a reference.
    """

    prototypes: torch.Tensor
    instances: list[torch.Tensor]


@dataclass(frozen=True)
class Candidates:
    """Proposals with a class and a score, in rank order.

    index: i64 [N] into the image's proposals; labels: i64 [N] in [0, K); scores: f32 [N].
    A matcher yields them in proposal order; each postprocess step returns a subset, reordered or rescored.
    """

    index: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor

    def __len__(self) -> int:
        return int(self.index.numel())

    def pick(self, rows: torch.Tensor) -> Candidates:
        """The candidates at `rows` (indices or a boolean mask), in that order."""
        return Candidates(self.index[rows], self.labels[rows], self.scores[rows])


@dataclass(frozen=True)
class Detections:
    """The answer for one image, best first.

    labels: i64 [N]; scores: f32 [N]; masks: N RLEs. The boxes are the masks' tight boxes.
    classes: the K class names, where they are known; `classes[label]` is what was found. size: (H, W) of the image.
    """

    image_id: ImageId
    labels: torch.Tensor
    scores: torch.Tensor
    masks: list[Rle]
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.masks)

    def decode(self) -> np.ndarray:
        """The masks as pictures, bool [N, H, W]."""
        return decode(self.masks) if len(self) else np.zeros((0, *self.size), dtype=bool)

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """Tight boxes `x1 y1 x2 y2` in pixels, f64 [N, 4]; x2 and y2 lie behind the last pixel."""
        boxes = boxes_xywh(self.masks)
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    def pick(self, rows: Sequence[int]) -> Detections:
        """The detections at `rows`, in that order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        masks = [self.masks[row] for row in rows]
        return replace(self, labels=self.labels[index], scores=self.scores[index], masks=masks)

    def above(self, score: float) -> Detections:
        """Those of at least this score."""
        return self.pick(torch.nonzero(self.scores >= score)[:, 0].tolist())

    def to_coco(self, categories: Mapping[int, int | str] | None = None) -> list[dict[str, Any]]:
        """COCO results: image id, category id, box `x y w h`, score, compressed RLE.

        categories: category id by label; None counts from 1 in the order of the classes.
        """
        found = zip(self.labels.tolist(), self.scores.tolist(), boxes_xywh(self.masks), self.masks, strict=True)
        return [
            {
                "image_id": self.image_id,
                "category_id": label + 1 if categories is None else categories[label],
                "bbox": box.tolist(),
                "score": score,
                "segmentation": to_json(mask),
            }
            for label, score, box, mask in found
        ]

    def to_supervision(self) -> Any:
        """`supervision.Detections` with boxes, masks (bool [N, H, W]: N pictures in memory), scores and class names.

        Raises RefexpError with the pip command if the package is missing.
        """
        try:
            supervision = importlib.import_module("supervision")
        except ImportError:
            raise RefexpError("to_supervision needs a package that is not installed: pip install supervision") from None
        if not len(self):
            return supervision.Detections.empty()
        labels = self.labels.numpy()
        return supervision.Detections(
            xyxy=self.boxes_xyxy.astype(np.float32),
            mask=self.decode(),
            confidence=self.scores.numpy(),
            class_id=labels,
            data={"class_name": np.array([self.classes[i] for i in labels])} if self.classes else {},
        )


@dataclass(frozen=True)
class Weights:
    """Where a network's weights came from, for the provenance of every output.

    kind: "published" is trusted (or none are needed); results of "other" ones are marked, those of "random" ones mean
    nothing.
    """

    origin: str
    file: Path | None = None
    sha256: str | None = None
    kind: Literal["published", "other", "random"] = "published"

    @classmethod
    def random(cls) -> Weights:
        """Seeded random weights, for tests and benchmarks."""
        return cls("RANDOM weights", kind="random")
