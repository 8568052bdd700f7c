"""docs/method.md written down as plainly as possible: the side that refexp is timed and checked against.

Every prompt is decoded by SAM2's own decoder, all its masks are upscaled, features are upsampled to 256 x 256 and masks
kept as floats at the original size. Nothing here is used by the package.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from refexp.networks import IMAGENET_MEAN, IMAGENET_STD


def propose(model, square: Tensor, points: Tensor, batch: int, threshold: float) -> tuple[Tensor, Tensor]:
    """METHOD 2.3 -> logits f32 [M, 256, 256] and predicted IoU f32 [M]."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    backbone = model.forward_image(((square - mean) / std)[None])
    _, features, _, sizes = model._prepare_backbone_features(backbone)
    *finer, embedding = [f.permute(1, 2, 0).view(1, -1, *size) for f, size in zip(features, sizes, strict=True)]
    kept_logits, kept_ious = [], []
    for chunk in points.split(batch):
        labels = torch.ones(len(chunk), 1, dtype=torch.int32)
        sparse, dense = model.sam_prompt_encoder(points=(chunk[:, None], labels), boxes=None, masks=None)
        logits, ious, _, _ = model.sam_mask_decoder(
            image_embeddings=embedding,
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=True,
            high_res_features=finer,
        )
        best = ious.argmax(dim=1)
        rows = torch.arange(len(chunk))
        kept_logits.append(logits[rows, best])
        kept_ious.append(ious[rows, best])
    logits, ious = torch.cat(kept_logits), torch.cat(kept_ious)
    return logits[ious > threshold], ious[ious > threshold]


def mask_features(logits: Tensor, tokens: Tensor) -> Tensor:
    """METHOD 3.1 -> f32 [M, C]."""
    grid = round(len(tokens) ** 0.5)
    upsampled = F.interpolate(tokens.T.reshape(1, -1, grid, grid), size=(256, 256), mode="bilinear")[0]
    masks = (logits > 0).float()
    pooled = torch.einsum("mhw,chw->mc", masks, upsampled) / masks.sum(dim=(1, 2))[:, None]
    return F.normalize(pooled, dim=1)


def boxes_of(masks: Tensor) -> Tensor:
    """Tight boxes of bool [M, H, W], last pixel inclusive."""
    boxes = torch.zeros(len(masks), 4)
    for i, mask in enumerate(masks):
        ys, xs = torch.where(mask)
        if len(xs):
            boxes[i] = torch.tensor([xs.min(), ys.min(), xs.max(), ys.max()])
    return boxes


def suppress(labels: Tensor, ious: Tensor, boxes: Tensor, threshold: float = 0.5, keep: int = 800) -> Tensor:
    """METHOD 3.3 -> kept rows by falling predicted IoU."""
    kept = torch.cat([
        torch.where(labels == label)[0][nms(boxes[labels == label], ious[labels == label], threshold)]
        for label in labels.unique()
    ])  # fmt: skip
    return kept[ious[kept].argsort(descending=True, stable=True)][:keep]


def merge(masks: Tensor, features: Tensor, labels: Tensor, scores: Tensor, k: int = 100) -> tuple[Tensor, Tensor]:
    """METHOD 4.2 and 4.3 on float masks [N, H, W] -> rows and their scores, best first."""
    flat = masks.flatten(1).float()
    overlap = (flat @ flat.T) / flat.sum(dim=1)[:, None] * (features @ features.T).clamp(min=0)
    overlap = (overlap * (labels[:, None] == labels)).tril(diagonal=-1)
    scores = scores * (1 - overlap.amax(dim=1).clamp(max=1)).sqrt()
    order = scores.argsort(descending=True, stable=True)[:k]
    return order, scores[order]


def match_and_merge(
    logits: Tensor, ious: Tensor, tokens: Tensor, prototypes: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """METHOD 3 and 4 -> rows of `logits`, labels, scores and full-size bool masks of the detections."""
    features = mask_features(logits, tokens)
    scores, labels = (features @ prototypes.T).clamp(min=0).max(dim=1)
    kept = suppress(labels, ious, boxes_of(logits > 0))
    kept = kept[scores[kept] > 0]
    masks = F.interpolate(logits[kept][:, None], size=size, mode="bilinear", antialias=True)[:, 0] > 0
    boxes_of(masks)
    rows, merged = merge(masks, features[kept], labels[kept], scores[kept])
    return kept[rows], labels[kept][rows], merged, masks[rows]
