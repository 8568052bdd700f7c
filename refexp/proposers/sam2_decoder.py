"""SAM2's mask decoder for many prompts on one image, the same numbers for a third of the work.

SAM2 decodes every prompt as if it had an image of its own: T = 8 prompt tokens and N = 4096 image tokens go through
two two-way transformer layers, the image tokens being projected to keys, queries and values each time, and then all
masks are upscaled. Here
- image tokens are projected once per image as long as they are the same for every prompt (up to the first layer's end);
- later the few prompt tokens are projected instead: with the weights of head h,
  `(q_h)(W_k,h x)ᵀ = (q_h W_k,h) xᵀ`, `A (x W_v,h) = (A x) W_v,h`, `A (v_h) W_o,h = A (v_h W_o,h)`; the key bias cancels
  in the softmax;
- positions are added to the scores, from projections made once per image;
- a mask is upscaled only if it is wanted, alone, as matrix products over pixels with channels last.

Shapes: B prompts, T tokens, N image tokens, D = 256 channels, h heads of d channels each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Image:
    """What all prompts on one image share.

    keys, position: image tokens and their positional encoding [1, N, D].
    fine: the two finer feature maps, channels last, each pixel's 2 x 2 children together: [N, 4, C1], [N * 4, 4, C0].
    """

    keys: Tensor
    position: Tensor
    fine: tuple[Tensor, Tensor]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, n, h * d] -> [B, h, n, d]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, h, n, d] -> [B, n, h * d]."""
    return x.transpose(1, 2).flatten(2)


class SharedDecoder:
    """Wraps an upstream `MaskDecoder`, whose weights it uses. Prompts are single points or boxes (no mask prompts)."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.transformer = decoder, decoder.transformer
        self.output_tokens = torch.cat(
            [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
            if decoder.pred_obj_scores
            else [decoder.iou_token.weight, decoder.mask_tokens.weight]
        )
        self.iou_row = 1 if decoder.pred_obj_scores else 0

    def prepare(self, embedding: Tensor, position: Tensor, finer: Sequence[Tensor]) -> Image:
        """Image embedding and positional encoding [1, D, s, s], finer maps [1, C0, 4s, 4s] and [1, C1, 2s, 2s]."""
        fine0, fine1 = finer
        side = embedding.shape[-1]
        blocks1 = fine1[0].unflatten(1, (side, 2)).unflatten(3, (side, 2)).permute(1, 3, 2, 4, 0)
        blocks0 = fine0[0].unflatten(1, (side, 2, 2)).unflatten(4, (side, 2, 2)).permute(1, 4, 2, 5, 3, 6, 0)
        return Image(
            keys=embedding.flatten(2).transpose(1, 2),
            position=position.flatten(2).transpose(1, 2),
            fine=(blocks1.flatten(0, 1).flatten(1, 2), blocks0.flatten(0, 3).flatten(1, 2)),
        )

    def attend(self, prompts: Tensor, image: Image) -> tuple[Tensor, Tensor]:
        """Prompt embeddings [B, P, D] -> tokens [B, T, D] and image tokens [B, N, D] after the two-way transformer."""
        output = self.output_tokens.expand(len(prompts), -1, -1)
        embedding = torch.cat([output, prompts], dim=1)
        tokens, keys = embedding, image.keys
        for layer in self.transformer.layers:
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)
            else:
                query = tokens + embedding
                tokens = tokens + layer.self_attn(query, query, tokens)
            tokens = layer.norm1(tokens)
            read = token_to_image(layer.cross_attn_token_to_image, tokens + embedding, keys, image.position)
            tokens = layer.norm2(tokens + read)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            written = image_to_token(layer.cross_attn_image_to_token, keys, image.position, tokens + embedding, tokens)
            keys = layer.norm4(written.add_(keys))
        last = self.transformer.final_attn_token_to_image
        read = token_to_image(last, tokens + embedding, keys, image.position)
        return self.transformer.norm_final_attn(tokens + read), keys

    def best(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, T, D] -> of the three masks the highest predicted IoU [B], and that mask's own token [B, D]."""
        ious = self.decoder.iou_prediction_head(tokens[:, self.iou_row])[:, 1:]
        iou, which = ious.max(dim=1)
        mask_tokens = tokens[:, self.iou_row + 1 :]
        # Each mask token has a small network of its own; token 0 is for prompts without ambiguity.
        networks = list(enumerate(self.decoder.output_hypernetworks_mlps))[1:]
        hyper = torch.stack([network(mask_tokens[:, i]) for i, network in networks], dim=1)
        return iou, hyper[torch.arange(len(which), device=which.device), which]

    def single(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T, D] -> the token [B, D] of the one mask for prompts without ambiguity, such as boxes."""
        return self.decoder.output_hypernetworks_mlps[0](tokens[:, self.iou_row + 1])

    def upscale(self, keys: Tensor, hyper: Tensor, image: Image) -> Tensor:
        """Image tokens [b, N, D] and mask weights [b, C0] -> logits [b, 4s, 4s]."""
        first, norm, _, second, _ = self.decoder.output_upscaling
        side = round(keys.shape[1] ** 0.5)
        x = keys @ transposed_convolution(first)
        x = x.unflatten(-1, (4, -1)) + (image.fine[0] + first.bias)
        x = F.gelu(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        x = x.flatten(1, 2) @ transposed_convolution(second)
        x = F.gelu((x.unflatten(-1, (4, -1)) + (image.fine[1] + second.bias)).flatten(1, 2))
        logits = torch.bmm(x, hyper[:, :, None].to(x.dtype))
        # Rows of pixels, outermost to innermost: coarse (y, x), then the two halvings' (y, x).
        blocks = logits.view(-1, side, side, 2, 2, 2, 2)
        return blocks.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * side, 4 * side)


def transposed_convolution(layer: Any) -> Tensor:
    """A 2 x 2, stride 2 transposed convolution as a matrix [C_in, 4 * C_out]: each pixel has four children."""
    return layer.weight.permute(0, 2, 3, 1).flatten(1)


def token_to_image(attention: Any, query: Tensor, keys: Tensor, position: Tensor) -> Tensor:
    """Prompt tokens [B, T, D] attend to image tokens [B or 1, N, D] -> [B, T, D]."""
    heads = attention.num_heads
    q = split_heads(attention.q_proj(query), heads)
    scale = q.shape[-1] ** -0.5
    if len(keys) == 1:
        k = split_heads(attention.k_proj(keys + position), heads)
        v = split_heads(attention.v_proj(keys), heads)
        return attention.out_proj(merge_heads(((q * scale) @ k.transpose(2, 3)).softmax(dim=-1) @ v))
    weight = attention.k_proj.weight.unflatten(0, (heads, -1))
    place = split_heads(F.linear(position, attention.k_proj.weight), heads)
    q = q * scale
    scores = (q @ place.transpose(2, 3)).flatten(1, 2)
    scores = torch.baddbmm(scores, (q @ weight).flatten(1, 2), keys.transpose(1, 2))
    read = (scores.softmax(dim=-1) @ keys).unflatten(1, (heads, -1))
    value = read @ attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2)
    return attention.out_proj(merge_heads(value) + attention.v_proj.bias)


def image_to_token(attention: Any, keys: Tensor, position: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Image tokens [B or 1, N, D] attend to prompt tokens, key and value [B, T, D] -> [B, N, D]."""
    heads = attention.num_heads
    k, v = split_heads(attention.k_proj(key), heads), split_heads(attention.v_proj(value), heads)
    k = k * k.shape[-1] ** -0.5
    if len(keys) == 1:
        q = split_heads(attention.q_proj(keys + position), heads)
        scores = k @ q.transpose(2, 3)
    else:
        place = split_heads(attention.q_proj(position), heads)
        weight = attention.q_proj.weight.unflatten(0, (heads, -1))
        scores = (k @ place.transpose(2, 3)).flatten(1, 2)
        scores = torch.baddbmm(scores, (k @ weight).flatten(1, 2), keys.transpose(1, 2)).unflatten(1, (heads, -1))
    mixed = (v @ attention.out_proj.weight.T.unflatten(0, (heads, -1))).flatten(1, 2)
    # [B, h, T, N]: the softmax runs over the T tokens of a head.
    return torch.baddbmm(attention.out_proj.bias, scores.softmax(dim=2).flatten(1, 2).transpose(1, 2), mixed)
