"""The data types of an experiment.

Shape notation in all docstrings:

    H, W   original size of an image          M   mask proposals in an image
    S      side of the square target input    N   candidates (proposal, class) of an image
    K      classes                            C   encoder channels
    G      side of the encoder's feature grid (37 for DINOv2 at 518 px)

Low-resolution masks are 256 x 256. Boxes are `x1 y1 x2 y2` in pixels, unless a name contains `xywh`.
Masks at the original size are COCO run-length encodings (RLE), which are small and exact.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from refexp.errors import RefexpError
from refexp.masks import Rle, boxes_xywh, decode, to_json

if TYPE_CHECKING:
    from refexp.mask_overlap import MaskOverlap

ImageId = int | str


@dataclass(frozen=True)
class Target:
    """One target image, prepared for the networks (METHOD 2.1).

    rgb: u8 [H, W, 3]. square: f32 [3, S, S] in [0, 1].
    truth: ground-truth masks of the chosen classes. Only the oracle proposer uses them.
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
    """An annotated instance from which a run learns a class (METHOD 0).

    id, image_id: ids of the annotation and of its image. label: class index in [0, K). box: `x y w h` in pixels.
    mask: RLE at the image's size. If only a box is annotated, the mask is None until the proposer makes one.
    """

    id: ImageId
    image_id: ImageId
    label: int
    box: tuple[float, float, float, float]
    mask: Rle | None

    @property
    def known_mask(self) -> Rle:
        """The mask, which must not be None."""
        assert self.mask is not None, "references get their masks before they are used"
        return self.mask


@dataclass(frozen=True)
class MaskProposals:
    """The class-agnostic mask proposals of one image.

    quality: f32 [M], the proposer's confidence in [0, 1] (SAM2: predicted IoU).
    masks_lr: bool [M, 256, 256], with the image resized to a square, on the device of the proposer.
    masks: M RLEs at the original H x W.
    """

    quality: torch.Tensor
    masks_lr: torch.Tensor
    masks: list[Rle]

    def __len__(self) -> int:
        return len(self.masks)

    def pick(self, rows: Sequence[int] | np.ndarray) -> MaskProposals:
        """Return the proposals at `rows`, in this order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return MaskProposals(self.quality[index], self.masks_lr[index], [self.masks[i] for i in index.tolist()])


@dataclass(frozen=True)
class Proposals:
    """The proposals of one image with their features: the result of the networks and the input of matching and merging.

    quality: f32 [M]. boxes_lr: f32 [M, 4], tight boxes on the 256 x 256 grid.
    features: f32 [M, C], L2-normalised (METHOD 3.1). masks: M RLEs. size: (H, W).
    tokens: f32 [G * G, C], the patch tokens of the image. None unless the matcher needs them.
        Rounded to f16, as in the store.
    """

    quality: torch.Tensor
    boxes_lr: torch.Tensor
    features: torch.Tensor
    masks: list[Rle]
    size: tuple[int, int]
    tokens: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def known_tokens(self) -> torch.Tensor:
        """The tokens, which must not be None."""
        assert self.tokens is not None, "only a matcher with needs_tokens gets the tokens of a target"
        return self.tokens

    @cached_property
    def overlap(self) -> MaskOverlap:
        """How much the masks overlap and how alike the features are. It computes each pair once."""
        from refexp.mask_overlap import MaskOverlap  # its compiled loops take a second to load

        return MaskOverlap(self.masks, self.features.numpy(), self.size)


@dataclass(frozen=True)
class Patches:
    """The patches of one reference, as the encoder saw it.

    tokens: f32 [G * G, C]. weights: f32 [G * G] in [0, 1], the mask on patches (METHOD 1.4).
    outside: bool [G * G], the patches that touch no annotated instance of the class: the background of the reference.
    """

    tokens: torch.Tensor
    weights: torch.Tensor
    outside: torch.Tensor


@dataclass(frozen=True)
class MemoryBank:
    """The prototypes of the references (METHOD 1.5).

    prototypes: f32 [K, C], L2-normalised. instances: for each class f32 [S_k, C], one row per reference.
    patches: for each class the patches of its S_k references. None unless the matcher needs them.
    classes: the K class names, for messages. May be empty.
    """

    prototypes: torch.Tensor
    instances: list[torch.Tensor]
    patches: list[list[Patches]] | None = None
    classes: tuple[str, ...] = ()

    @property
    def known_patches(self) -> list[list[Patches]]:
        """The patches, which must not be None."""
        assert self.patches is not None, "only a matcher with needs_patches gets the patches of the references"
        return self.patches

    def name(self, label: int) -> str:
        """Return the name of a class, or "class 3" if the names are unknown."""
        return self.classes[label] if self.classes else f"class {label}"


@dataclass(frozen=True)
class Candidates:
    """Proposals with a class and a score, in rank order.

    index: i64 [N], indices of the image's proposals. labels: i64 [N] in [0, K). scores: f32 [N].
    A matcher returns them in proposal order. Each postprocess step returns a subset and can change order and scores.
    """

    index: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor

    def __len__(self) -> int:
        return int(self.index.numel())

    def pick(self, rows: torch.Tensor | np.ndarray) -> Candidates:
        """Return the candidates at `rows` (indices or a boolean mask), in this order."""
        # NumPy picks so few rows in a third of PyTorch's time.
        rows = rows.numpy() if isinstance(rows, torch.Tensor) else rows
        return Candidates(*(torch.from_numpy(one.numpy()[rows]) for one in (self.index, self.labels, self.scores)))


@dataclass(frozen=True)
class Detections:
    """The detections of one image, sorted by score.

    image_id: id of the image. labels: i64 [N]. scores: f32 [N]. masks: N RLEs; use `decode` for arrays.
    classes: the K class names, if known. `classes[label]` is the class of a detection. size: (H, W) of the image.

    Example:
        >>> import numpy as np, torch
        >>> from refexp.masks import encode
        >>> masks = np.zeros((2, 40, 60), dtype=bool)
        >>> masks[0, 10:20, 5:25] = masks[1, 30:, 50:] = True
        >>> detections = Detections(
        ...     "photo.jpg", torch.tensor([1, 0]), torch.tensor([0.9, 0.4]), encode(masks), ("cat", "dog"), (40, 60)
        ... )
        >>> [detections.classes[label] for label in detections.labels]
        ['dog', 'cat']
        >>> len(detections)
        2
    """

    image_id: ImageId
    labels: torch.Tensor
    scores: torch.Tensor
    masks: list[Rle]
    classes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> Any:
        # As arrays: PyTorch would pickle each tensor as a file of its own.
        arrays = self.labels.numpy(), self.scores.numpy()
        return _detections, (self.image_id, *arrays, self.masks, self.classes, self.size)

    def decode(self) -> np.ndarray:
        """Decode the masks.

        Returns:
            The masks, bool [N, H, W].

        Example:
            >>> from refexp.masks import encode
            >>> mask = np.ones((1, 40, 60), dtype=bool)
            >>> Detections(0, torch.tensor([0]), torch.tensor([0.9]), encode(mask)).decode().shape
            (1, 40, 60)
        """
        return decode(self.masks) if len(self) else np.zeros((0, *self.size), dtype=bool)

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """The tight boxes `x1 y1 x2 y2` in pixels, f64 [N, 4]. x2 and y2 lie after the last pixel.

        Example:
            >>> from refexp.masks import encode
            >>> mask = np.zeros((1, 40, 60), dtype=bool)
            >>> mask[0, 10:20, 5:25] = True
            >>> Detections(0, torch.tensor([0]), torch.tensor([0.9]), encode(mask)).boxes_xyxy.tolist()
            [[5.0, 10.0, 25.0, 20.0]]
        """
        boxes = boxes_xywh(self.masks)
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)

    def pick(self, rows: Sequence[int]) -> Detections:
        """Select detections.

        Args:
            rows: indices of the detections.

        Returns:
            The detections at `rows`, in this order.

        Raises:
            IndexError: an index is out of range.

        Example:
            >>> from refexp.masks import encode
            >>> masks = np.ones((3, 40, 60), dtype=bool)
            >>> three = Detections(0, torch.tensor([0, 1, 2]), torch.tensor([0.9, 0.5, 0.4]), encode(masks))
            >>> three.pick([2, 0]).labels.tolist()
            [2, 0]
        """
        index = torch.as_tensor(rows, dtype=torch.int64)
        masks = [self.masks[row] for row in rows]
        return replace(self, labels=self.labels[index], scores=self.scores[index], masks=masks)

    def above(self, score: float) -> Detections:
        """Select the detections with at least this score.

        Args:
            score: the minimum score.

        Returns:
            The selected detections, in the same order.

        Example:
            >>> from refexp.masks import encode
            >>> masks = np.ones((2, 40, 60), dtype=bool)
            >>> two = Detections(0, torch.tensor([0, 1]), torch.tensor([0.75, 0.25]), encode(masks))
            >>> two.above(0.5).scores.tolist()
            [0.75]
        """
        return self.pick(torch.nonzero(self.scores >= score)[:, 0].tolist())

    def to_coco(self, categories: Mapping[int, int | str] | None = None) -> list[dict[str, Any]]:
        """Convert to COCO results, ready for `json.dump`.

        Args:
            categories: category id of each label. None takes label + 1.

        Returns:
            One record per detection: image_id, category_id, bbox (`x y w h` in pixels), score, segmentation (compressed
            RLE).

        Raises:
            KeyError: `categories` lacks a label.

        Example:
            >>> from refexp.masks import encode
            >>> mask = np.zeros((1, 40, 60), dtype=bool)
            >>> mask[0, 10:20, 5:25] = True
            >>> (record,) = Detections(7, torch.tensor([0]), torch.tensor([0.5]), encode(mask)).to_coco()
            >>> record["image_id"], record["category_id"], record["bbox"], record["score"]
            (7, 1, [5.0, 10.0, 20.0, 10.0], 0.5)
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
        """Convert to `supervision.Detections`, for drawing and tracking.

        Returns:
            Boxes, scores, labels, class names, and masks as bool [N, H, W], which need N x H x W bytes.

        Raises:
            RefexpError: the package supervision is not installed. The message contains the pip command.

        Example:
            >>> from refexp.masks import encode
            >>> mask = np.ones((1, 40, 60), dtype=bool)
            >>> one = Detections(0, torch.tensor([0]), torch.tensor([0.9]), encode(mask), ("cat",))
            >>> one.to_supervision()["class_name"].tolist()
            ['cat']
        """
        try:
            supervision = importlib.import_module("supervision")
        except ImportError:
            raise RefexpError("to_supervision needs a missing package: pip install supervision") from None
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
    """The origin of a network's weights, recorded in every output.

    kind: "published" (or no weights needed), "other" or "random". Results of "other" weights are marked. Results of
    "random" weights are meaningless.
    """

    origin: str
    file: Path | None = None
    sha256: str | None = None
    kind: Literal["published", "other", "random"] = "published"

    @classmethod
    def random(cls) -> Weights:
        """Describe seeded random weights, for tests and benchmarks."""
        return cls("RANDOM weights", kind="random")


def _detections(image_id: ImageId, labels: np.ndarray, scores: np.ndarray, *rest: Any) -> Detections:
    """Restore pickled detections."""
    return Detections(image_id, torch.from_numpy(labels), torch.from_numpy(scores), *rest)
