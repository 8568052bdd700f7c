"""References -> memory bank: crop, encode, pool under the mask, average over shots (METHOD 1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from refexp.data.coco import Split, has_mask
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError
from refexp.masks import box_mask, decode
from refexp.method.contract import check_tokens
from refexp.types import MemoryBank, Patches, Reference


def crop_window(box_xyxy: tuple[float, float, float, float], context: float, size: tuple[int, int]) -> tuple[int, ...]:
    """The square around a box, `context` wider than its longer side, cut at the image border (METHOD 1.1).

    `size` is (H, W); the result is integer `x1 y1 x2 y2`. A crop cut by the border is not padded.
    """
    x1, y1, x2, y2 = (int(v) for v in box_xyxy)
    half = max(x2 - x1, y2 - y1) * (1 + context) / 2
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    height, width = size
    return max(0, int(cx - half)), max(0, int(cy - half)), min(width, int(cx + half)), min(height, int(cy + half))


def view_window(
    box_xywh: tuple[float, float, float, float], context: float | None, size: tuple[int, ...]
) -> tuple[int, ...]:
    """The part of an image that the encoder is shown of a reference, integer `x1 y1 x2 y2`. `context=None`: all."""
    height, width = size
    x, y, w, h = box_xywh
    return (0, 0, width, height) if context is None else crop_window((x, y, x + w, y + h), context, (height, width))


def crop_reference(
    rgb: np.ndarray, mask: np.ndarray, box_xywh: tuple[float, float, float, float], context: float | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder is shown of a reference: image f32 [1, 3, h, w] in [0, 1] and mask f32 [1, 1, h, w].

    rgb u8 [H, W, 3], mask bool [H, W]. `context=None` shows the whole image. Raises ValueError if no mask is in view.
    """
    x1, y1, x2, y2 = view_window(box_xywh, context, mask.shape)
    if not mask[y1:y2, x1:x2].any():
        raise ValueError(f"has an empty mask, or its mask lies outside its bbox {list(box_xywh)}; leave it out.")
    image = torch.from_numpy(np.ascontiguousarray(rgb[y1:y2, x1:x2])).permute(2, 0, 1)[None].float() / 255
    return image, torch.from_numpy(np.ascontiguousarray(mask[y1:y2, x1:x2])).float()[None, None]


def mask_weights(mask: torch.Tensor, input_size: int, grid: int) -> torch.Tensor:
    """Mask f32 [1, 1, h, w] -> patch weights f32 [G * G] in [0, 1]: bilinear, then nearest (METHOD 1.2, 1.4).

    Nearest can miss a very small mask altogether; its weights are then the covered share of each patch.
    """
    soft = F.interpolate(mask, size=(input_size, input_size), mode="bilinear", align_corners=False)
    weights = F.interpolate(soft, size=(grid, grid), mode="nearest").flatten()
    if weights.sum() > 0:
        return weights
    return F.adaptive_avg_pool2d(mask, grid).flatten()


def instance_prototype(tokens: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean of patch tokens f32 [G * G, C] under weights f32 [G * G] -> f32 [C] (METHOD 1.5)."""
    return (weights @ tokens) / weights.sum()


@dataclass(frozen=True)
class ReferenceView:
    """One reference as the encoder saw it, on the CPU.

    rgb: u8 [h, w, 3], the crop; mask: bool [h, w]; tokens: f32 [G * G, C]; weights: f32 [G * G], the mask on patches.
    more: instance prototypes f32 [C] of its other views (`Encoder.reference_views`).
    """

    rgb: np.ndarray
    mask: np.ndarray
    tokens: torch.Tensor
    weights: torch.Tensor
    more: tuple[torch.Tensor, ...] = ()

    @property
    def prototype(self) -> torch.Tensor:
        """The instance prototype, f32 [C]: the mean over the views."""
        own = instance_prototype(self.tokens, self.weights)
        return torch.stack([own, *self.more]).mean(dim=0) if self.more else own


def view_reference(split: Split, reference: Reference, encoder: Encoder, device: torch.device) -> ReferenceView:
    """Read, crop and encode one reference; the encoder must be loaded. Raises RefexpError that names the reference."""
    rgb, mask = split.read(split.images[reference.image_id]), decode([reference.known_mask])[0]

    def encode(image: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = check_tokens(encoder, encoder.encode(image.to(device)), 1)[0].cpu()
        return tokens, mask_weights(inside, encoder.input_size, encoder.grid)

    try:
        image, inside = crop_reference(rgb, mask, reference.box, encoder.reference_context)
        seen = [
            (image.flip(-1), inside.flip(-1))
            if view == "flip"
            else crop_reference(rgb, mask, reference.box, None if view == "whole" else view)
            for view in encoder.reference_views
        ]
    except ValueError as error:
        raise RefexpError(f"{split.source}: reference {reference.id} {error}") from None
    more = tuple(instance_prototype(*encode(*pair)) for pair in seen)
    crop = (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return ReferenceView(crop, inside[0, 0].bool().numpy(), *encode(image, inside), more)


def patches_of(view: ReferenceView, split: Split, reference: Reference, encoder: Encoder) -> Patches:
    """The patches of a reference whose `view` is known.

    The reference's own mask and the other annotated instances of its class in the image are not background. An instance
    without a mask counts with its box. Instances that nobody annotated do count as background.
    """
    record = split.images[reference.image_id]
    size = record["height"], record["width"]
    of_class = [a for a in split.by_image[record["id"]] if split.labels[a["category_id"]] == reference.label]
    masks = [split.mask(a) if has_mask(a) else box_mask(a["bbox"], size) for a in of_class]
    x1, y1, x2, y2 = view_window(reference.box, encoder.reference_context, size)
    inside = np.logical_or.reduce(decode([reference.known_mask, *masks]))
    touched = F.adaptive_max_pool2d(torch.from_numpy(inside[y1:y2, x1:x2]).float()[None], encoder.grid).flatten() > 0
    return Patches(view.tokens, view.weights, ~touched)


def learn(
    split: Split,
    references: Sequence[Sequence[Reference]],
    encoder: Encoder,
    device: torch.device,
    with_patches: bool,
    classes: tuple[str, ...],
) -> MemoryBank:
    """Encode the references of each class, without a store, and make a memory bank of them."""
    instances: list[torch.Tensor] = []
    patches: list[list[Patches]] = []
    for of_class in references:
        views = [view_reference(split, reference, encoder, device) for reference in of_class]
        instances.append(torch.stack([view.prototype for view in views]))
        if with_patches:
            patches.append([patches_of(view, split, r, encoder) for view, r in zip(views, of_class, strict=True)])
    return build_bank(instances, patches if with_patches else None, classes)


def build_bank(
    instances: Iterable[torch.Tensor], patches: list[list[Patches]] | None = None, classes: tuple[str, ...] = ()
) -> MemoryBank:
    """Per class f32 [S_k, C] -> memory bank: the unweighted mean over shots, L2-normalised (METHOD 1.5)."""
    per_class = list(instances)
    prototypes = torch.stack([rows.mean(dim=0) for rows in per_class])
    return MemoryBank(F.normalize(prototypes, dim=1), per_class, patches, classes)
