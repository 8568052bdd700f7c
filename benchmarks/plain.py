"""A plain implementation of docs/method.md, as reference for the benchmarks and GPU checks of refexp.

SAM2's own decoder decodes every prompt, and all its masks are upscaled. Features are upsampled to 256 x 256, and masks
are floats at the original size. The package does not use this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

from refexp.machine.networks import IMAGENET_MEAN, IMAGENET_STD


def normalised(images: Tensor) -> Tensor:
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def resized(images: Tensor, side: int, antialias: bool = False) -> Tensor:
    return F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False, antialias=antialias)


def dinov2_tokens(model, images: Tensor) -> Tensor:
    """METHOD 1.3 and 2.2 by timm's model: f32 [B, 3, h, w] in [0, 1] -> f32 [B, G * G, C]."""
    inputs = normalised(resized(images, model.patch_embed.img_size[0]))
    return model.forward_features(inputs)[:, model.num_prefix_tokens :]


def efficientnet_tokens(network, images: Tensor, input_size: int, blocks: tuple[int, ...]) -> Tensor:
    """Features of the embedded default -> f32 [B, G * G, C]. In each cell, the part of each block has length 1."""
    inputs = normalised(resized(images, input_size, antialias=True))
    x, found = network._swish(network._bn0(network._conv_stem(inputs))), []
    mean = variance = torch.zeros(())
    for number, block in enumerate(network._blocks):
        skips = block.id_skip and block._block_args.stride == 1 and x.shape[1] == block._block_args.output_filters
        mean = block._bn2.bias + (mean if skips else 0)
        variance = block._bn2.weight**2 + (variance if skips else 0)
        x = block(x)
        if number in blocks:
            standard = (x - mean[:, None, None]) / variance.sqrt().clamp(min=1e-3)[:, None, None]
            side = input_size // 16
            found.append(F.normalize(F.interpolate(standard, size=(side, side), mode="bilinear"), dim=1))
    return torch.cat(found, dim=1).flatten(2).mT


def embed(model, square: Tensor, no_mem_embed: bool = False) -> tuple[Tensor, list[Tensor]]:
    """SAM2's image embedding [1, D, 64, 64] and its finer maps, of f32 [3, 1024, 1024] in [0, 1]."""
    backbone = model.forward_image(normalised(square)[None])
    _, features, _, sizes = model._prepare_backbone_features(backbone)
    if no_mem_embed:
        features[-1] = features[-1] + model.no_mem_embed
    *finer, embedding = [f.permute(1, 2, 0).view(1, -1, *size) for f, size in zip(features, sizes, strict=True)]
    return embedding, finer


def point_grid(points_per_side: int) -> Tensor:
    """METHOD 2.3: f32 [n * n, 2], x varying slowest."""
    line = torch.linspace(0, 1023, points_per_side) + 0.5
    return torch.stack([line.repeat_interleave(points_per_side), line.repeat(points_per_side)], dim=1)


def decode(
    model, points: Tensor, kinds: tuple[int, ...], image: tuple[Tensor, list[Tensor]], several: bool
) -> tuple[Tensor, Tensor]:
    """SAM2's own decoder on points [B, P, 2] of these kinds -> logits [B, 3 or 1, 256, 256] and predicted IoU."""
    labels = torch.tensor([kinds], dtype=torch.int32, device=points.device).expand(len(points), len(kinds))
    sparse, dense = model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
    logits, ious, _, _ = model.sam_mask_decoder(
        image_embeddings=image[0],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=several,
        repeat_image=True,
        high_res_features=image[1],
    )
    return logits, ious


def propose(model, square: Tensor, points: Tensor, batch: int, threshold: float) -> tuple[Tensor, Tensor]:
    """METHOD 2.3 -> logits f32 [M, 256, 256] and predicted IoU f32 [M]."""
    image = embed(model, square)
    kept_logits, kept_ious = [], []
    for chunk in points.split(batch):
        logits, ious = decode(model, chunk[:, None], (1,), image, several=True)
        best = ious.argmax(dim=1)
        rows = torch.arange(len(chunk), device=best.device)
        kept_logits.append(logits[rows, best])
        kept_ious.append(ious[rows, best])
    logits, ious = torch.cat(kept_logits), torch.cat(kept_ious)
    return logits[ious > threshold], ious[ious > threshold]


def masks_in_boxes(model, square: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """SAM2's image predictor on boxes f32 [B, 4] in pixels of the image -> bool [B, H, W]."""
    height, width = size
    corners = boxes.reshape(-1, 2, 2) * boxes.new_tensor([1024 / width, 1024 / height])
    model.sam_mask_decoder.dynamic_multimask_via_stability = True  # with the values of sam2.build_sam.build_sam2
    logits, _ = decode(model, corners, (2, 3), embed(model, square, no_mem_embed=True), several=False)
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[:, 0] > 0


def mask_features(logits: Tensor, tokens: Tensor) -> Tensor:
    """METHOD 3.1 -> f32 [M, C]."""
    grid = round(len(tokens) ** 0.5)
    upsampled = F.interpolate(tokens.T.reshape(1, -1, grid, grid), size=(256, 256), mode="bilinear")[0]
    masks = (logits > 0).float()
    pooled = torch.einsum("mhw,chw->mc", masks, upsampled) / masks.sum(dim=(1, 2))[:, None]
    return F.normalize(pooled, dim=1)


def boxes_of(masks: Tensor) -> Tensor:
    """Tight boxes of bool [M, H, W], last pixel inclusive."""
    boxes = torch.zeros(len(masks), 4, device=masks.device)
    for i, mask in enumerate(masks):
        ys, xs = torch.where(mask)
        if len(xs):
            boxes[i] = torch.stack([xs.min(), ys.min(), xs.max(), ys.max()])
    return boxes


def suppress(labels: Tensor, ious: Tensor, boxes: Tensor, threshold: float = 0.5, keep: int = 800) -> Tensor:
    """METHOD 3.3 -> kept rows by descending predicted IoU."""
    kept = torch.cat([
        torch.where(labels == label)[0][nms(boxes[labels == label], ious[labels == label], threshold)]
        for label in labels.unique()
    ])  # fmt: skip
    return kept[ious[kept].argsort(descending=True, stable=True)][:keep]


def merge(masks: Tensor, features: Tensor, labels: Tensor, scores: Tensor, k: int = 100) -> tuple[Tensor, Tensor]:
    """METHOD 4.2 and 4.3 on float masks [N, H, W] -> rows and their scores, highest first."""
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
