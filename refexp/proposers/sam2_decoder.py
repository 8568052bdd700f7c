"""SAM2's mask decoder for many prompts on one image, without image tokens for each prompt.

SAM2's decoder gives every prompt its own copy of the image tokens ([N, D] = [4096, 256]), and projects, updates and
normalises this copy in both layers of the two-way transformer. But a prompt has only T = 8 tokens (a box: 9), and
what it adds to the image tokens has low rank. Everywhere in the decoder, the image tokens X [N, D] of a prompt are

    X = r (k + Zᵀ G) + b                                                                                (1)

where k [N, D] depends only on the image and b [D] only on the weights. A prompt keeps r [N], one scale for each image
token, and two factors, Z [R, N] and G [R, D]. At the start, k is the image embedding, r = 1, b = 0 and R = 0. Each
layer adds J = T h rows to Z and G, one for each token and head. The following holds exactly.

Tokens attend to the image. Let A [J, N] be the softmax over N, W_k and W_v the part of a projection that belongs to
one head, and p the positional encoding of the image tokens. By (1),

    scores     q ((X + p) W_k + bias_k)ᵀ = r (q Kᵀ + (q W_kᵀ Gᵀ) Z) + q Fᵀ
    attention  A (X W_v + bias_v)        = (A r) V + ((A r) Zᵀ) G W_v + b W_v + bias_v

K = k W_k, V = k W_v and F = (p + b) W_k + bias_k are made once per image, and q W_kᵀ Gᵀ is a small [J, R] matrix.

The image attends to tokens. The scores are as above, with the image's queries in place of its keys. P [J, N] is
their softmax over the T tokens of each head, M [J, D] the values of the tokens times W_o, and X becomes
X + Pᵀ M + bias_o. In P the weights of one head add up to 1, so (b + bias_o) / h can be added to each row of M instead.

Layer norm. LN(x) = s c(x) w + b' with c(x) = x - mean(x) and s = 1 / sqrt(|c(x)|² / D + eps). As c is linear,

    c(X + Pᵀ M + bias_o) = r (c(k) + Yᵀ C),    Y = [Z; P / r],    C = [c(G); c(M)]
    |c(k) + Yᵀ C|²       = |c(k)|² + Σ_j Y_j (E + C Cᵀ Y)_j,      E = 2 C c(k)ᵀ

so that (1) holds after the norm with

    k <- c(k) w,    r <- s r,    Z <- Y,    G <- C w,    b <- b'

Rows of Z never change once they are made. E [R, N] needs no product over D for each prompt: C is the values [T, d] of
each layer and head times a weight, so E is the values times a table [d, N] of the image. (The constant is one more
channel: [e, N] with e = d + 1.)

Upscaling. The first transposed convolution is a matrix W_t, and X W_t = r (k W_t + Zᵀ (G W_t)) + b W_t.

The last attention serves only the tokens that are read: the one of the predicted IoU and those of the masks.

Precision. Under autocast, products with the image and with Z run in half precision. Everything of size [B, T, D] or
[B, R, D], r, and the sums in the norms stay in the precision of the weights, because predicted IoUs rank proposals.

Names of tensors end in their shapes: B prompts, T tokens, N image tokens, D channels, h heads of d channels, J = T h
with j = (token, head), R rows of Z. The transposed convolutions make u and v channels, so that the 2 x 2 children of a
pixel have U = 4 u and V = 4 v.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Args = ParamSpec("Args")
Result = TypeVar("Result")

UNIT = 2.0**-10
"""Of the terms of squares, see `Norm`. A power of two, so it changes no digit in the other precisions."""


def at_once(device: torch.device, dtype: torch.dtype) -> tuple[int, int, int]:
    """How many prompts read the image together, how many masks are upscaled together, and from how many image tokens.

    Prompts write to as many image tokens together as are upscaled. On a CPU everything is as large as its caches hold:
    a mask upscaled in pieces of 1 MiB takes two thirds of the time. On a GPU it is so large that starting the kernels
    does not take longer than they run: 64 prompts take twice the time of 256 on an H100.
    """
    return (32 // dtype.itemsize, 1, 4096 // dtype.itemsize) if device.type == "cpu" else (256, 16, 4096)


@dataclass(frozen=True)
class Projected:
    """K and F of one projection, by heads. In the first layer r = 1: there `scaled` is K + F, and `fixed` is None."""

    scaled_hdN: Tensor
    fixed_hdN: Tensor | None

    def at(self, n: slice) -> Projected:
        """Of these image tokens."""
        return Projected(self.scaled_hdN[..., n], None if self.fixed_hdN is None else self.fixed_hdN[..., n])


@dataclass(frozen=True)
class Read:
    """What an attention from tokens to the image needs of the image: K and F, and V."""

    keys: Projected
    values_hNd: Tensor


@dataclass(frozen=True)
class Write:
    """What an attention from the image to tokens and the norm after it need of the image.

    square_N: |c(k)|² / D. cross_heN: for each layer so far, the table that turns its tokens' values into UNIT E / D.
    """

    queries: Projected
    square_N: Tensor
    cross_heN: list[Tensor]


@dataclass(frozen=True)
class Pixels:
    """What the upscaling needs of the image, channels last, with a pixel's 2 x 2 children together.

    first_NU: k W_t. added_NU, added_MV: all that is added to the two transposed convolutions (the finer feature maps
    and constants), for N pixels and for M = 4 N.
    """

    first_NU: Tensor
    added_NU: Tensor
    added_MV: Tensor


@dataclass(frozen=True)
class Image:
    """What all prompts on one image share, in the precision of the image side (`Write.square_N` in the weights')."""

    reads: list[Read]
    writes: list[Write]
    pixels: Pixels


@dataclass(frozen=True)
class State:
    """The image tokens of B prompts, as in (1). Z has the precision of the image side, r and G that of the weights."""

    r_BN: Tensor
    Z_BRN: Tensor
    G_BRD: Tensor

    def __getitem__(self, rows: Tensor | slice) -> State:
        return State(self.r_BN[rows], self.Z_BRN[rows], self.G_BRD[rows])

    def at(self, n: slice) -> State:
        """Of these image tokens."""
        return State(self.r_BN[:, n], self.Z_BRN[..., n], self.G_BRD)

    def pick(self, rows: Tensor) -> State:
        """Of the prompts at `rows`, i64 [b]; one of them on a CPU is not copied."""
        if len(rows) == 1 and rows.device.type == "cpu":
            return self[int(rows) : int(rows) + 1]
        return self[rows]

    @property
    def dtype(self) -> torch.dtype:
        return self.Z_BRN.dtype

    @property
    def r_B1N(self) -> Tensor:
        """r in the precision of the image side, to multiply [B, J, N] with."""
        return self.r_BN[:, None].to(self.dtype)


def pieces(length: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `length`."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def children(n: slice, count: int) -> slice:
    """Where the children of these image tokens are, if each has `count`."""
    return slice(count * n.start, count * n.stop)


def centre(x: Tensor, dim: int = -1) -> Tensor:
    """c(x), over the channels."""
    return x - x.mean(dim=dim, keepdim=True)


def by_head(x: Tensor, heads: int) -> Tensor:
    """[h * d, ...] -> [h, d, ...]."""
    return x.unflatten(0, (heads, -1))


def times_weight(x_BThd: Tensor, weight_hdD: Tensor) -> Tensor:
    """Each head times its part of a weight -> [B, J, D]."""
    return torch.einsum("bthd,hdc->bthc", x_BThd, weight_hdD).flatten(1, 2)


def add_times_image(out_BJN: Tensor, x_BThd: Tensor, table_hdN: Tensor) -> None:
    """Add each head times its table of the image to `out_BJN`.

    With j = (token, head) the rows of a head are equally spaced in memory: one product per head serves all prompts
    and copies nothing.
    """
    out_hIN = out_BJN.view(-1, *table_hdN.shape[::2]).transpose(0, 1)  # I = (prompt, token)
    out_hIN.baddbmm_(x_BThd.flatten(0, 1).transpose(0, 1), table_hdN)


def attended(A_BJN: Tensor, values_hNd: Tensor) -> Tensor:
    """Each head's attention times its values -> [B, T, h, d]."""
    B, J, N = A_BJN.shape
    h = len(values_hNd)
    out_hId = torch.bmm(A_BJN.view(-1, h, N).transpose(0, 1), values_hNd)
    return out_hId.transpose(0, 1).unflatten(0, (B, J // h))


def added_product(added: Tensor, x_Bnm: Tensor, weight: Tensor) -> Tensor:
    """added [n, p] + x times weight, [m, p] or one [B, m, p] for each -> [B, n, p]."""
    if len(x_Bnm) == 1:  # on a CPU in half precision twice as fast as a batch of one
        return torch.addmm(added, x_Bnm[0], weight.view(-1, weight.shape[-1]))[None]
    return torch.baddbmm(added, x_Bnm, weight.expand(len(x_Bnm), -1, -1))


class Scores:
    """The scores between tokens and image tokens, for either direction of attention."""

    def __init__(self, of_tokens: Any, of_image: Any, heads: int, b_D: Tensor | None) -> None:
        self.of_tokens, self.of_image, self.heads, self.b_D = of_tokens, of_image, heads, b_D
        self.weight_hdD = by_head(of_image.weight, heads)

    def prepare(self, k_DN: Tensor, position_DN: Tensor, dtype: torch.dtype) -> Projected:
        weight, bias = self.of_image.weight, self.of_image.bias[:, None]
        if self.b_D is None:
            return Projected(by_head(weight @ (k_DN + position_DN) + bias, self.heads).to(dtype), None)
        fixed = weight @ (position_DN + self.b_D[:, None]) + bias
        return Projected(by_head(weight @ k_DN, self.heads).to(dtype), by_head(fixed, self.heads).to(dtype))

    def of_prompts(self, tokens_BTD: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """The tokens' projection q [B, T, h, d], scaled, and q Wᵀ Gᵀ [B, J, R]."""
        q_BThd = self.of_tokens(tokens_BTD).unflatten(-1, (self.heads, -1))
        q_BThd = q_BThd * q_BThd.shape[-1] ** -0.5
        inner_BJR = times_weight(q_BThd, self.weight_hdD) @ state.G_BRD.transpose(1, 2)
        return q_BThd.to(state.dtype), inner_BJR.to(state.dtype)

    def __call__(self, q_BThd: Tensor, inner_BJR: Tensor, state: State, image: Projected) -> Tensor:
        """r (q Kᵀ + (q Wᵀ Gᵀ) Z) + q Fᵀ -> [B, J, N]."""
        out_BJN = inner_BJR @ state.Z_BRN
        add_times_image(out_BJN, q_BThd, image.scaled_hdN)
        if image.fixed_hdN is not None:
            add_times_image(out_BJN.mul_(state.r_B1N), q_BThd, image.fixed_hdN)
        return out_BJN


class TokensToImage:
    """Tokens attend to image tokens."""

    def __init__(self, attention: Any, b_D: Tensor | None) -> None:
        self.attention, heads = attention, attention.num_heads
        self.scores = Scores(attention.q_proj, attention.k_proj, heads, b_D)
        self.value_hDd = by_head(attention.v_proj.weight, heads).transpose(1, 2)
        self.constant = attention.v_proj.bias if b_D is None else attention.v_proj(b_D)

    def prepare(self, k_DN: Tensor, position_DN: Tensor, dtype: torch.dtype) -> Read:
        values_hNd = (k_DN.T @ self.value_hDd).contiguous()
        return Read(self.scores.prepare(k_DN, position_DN, dtype), values_hNd.to(dtype))

    def __call__(self, query_BTD: Tensor, state: State, image: Read) -> Tensor:
        """-> [B, T, D]."""
        q_BThd, inner_BJR = self.scores.of_prompts(query_BTD, state)
        near_BThd, far_BJR = torch.empty_like(q_BThd), torch.empty_like(inner_BJR)  # (A r) V and (A r) Zᵀ
        for some in pieces(len(query_BTD), at_once(query_BTD.device, state.dtype)[0]):
            part = state[some]
            A_BJN = self.scores(q_BThd[some], inner_BJR[some], part, image.keys).softmax(dim=-1)
            if image.keys.fixed_hdN is not None:
                A_BJN.mul_(part.r_B1N)
            far_BJR[some] = A_BJN @ part.Z_BRN.transpose(1, 2)
            near_BThd[some] = attended(A_BJN, image.values_hNd)
        far_BThD = (far_BJR.to(state.G_BRD.dtype) @ state.G_BRD).unflatten(1, q_BThd.shape[1:3])
        read_BThd = near_BThd + torch.einsum("bthc,hcd->bthd", far_BThD, self.value_hDd)
        return self.attention.out_proj(read_BThd.flatten(2) + self.constant)


class Norm:
    """Computes |c(k) + Yᵀ C|² / D. Each layer so far gave J rows of C and Y.

    What is computed in half precision is UNIT times as large: squares would overflow float16.
    """

    def __init__(
        self, image: Write, C_BJD: Sequence[Tensor], values_BThe: Sequence[Tensor], dtype: torch.dtype
    ) -> None:
        self.image, self.values_BThe = image, [values.to(dtype) for values in values_BThe]
        # C Cᵀ is symmetric: each layer's rows meet those of earlier layers once, with twice the weight.
        rows_BRD = [torch.cat([*(2 * C for C in C_BJD[:i]), C_BJD[i]], dim=1) for i in range(len(C_BJD))]
        self.products_BJR = [
            (C @ rows.transpose(1, 2) * (UNIT / C.shape[-1])).to(dtype) for C, rows in zip(C_BJD, rows_BRD, strict=True)
        ]

    def mean_square(self, n: slice, Y_BRN: Tensor, scratch_BJN: Tensor) -> Tensor:
        """[B, N] of the image tokens `n`. Sums have the precision of the weights."""
        square_N = self.image.square_N[n]
        square_BN, start = square_N, 0
        for values, table, products in zip(self.values_BThe, self.image.cross_heN, self.products_BJR, strict=True):
            end = products.shape[-1]
            torch.bmm(products, Y_BRN[:, :end], out=scratch_BJN)
            add_times_image(scratch_BJN, values, table[..., n])
            square_BN = square_BN + scratch_BJN.mul_(Y_BRN[:, start:end]).sum(dim=1, dtype=square_N.dtype) / UNIT
            start = end
        # If a prompt cancels c(k), no less than rounding is left of it. The floor keeps squares >= 0 and r finite.
        return torch.maximum(square_BN, square_N * torch.finfo(Y_BRN.dtype).eps)


class ImageToTokens:
    """Image tokens attend to tokens and are normalised.

    earlier: one weight [h, e, D] for each earlier layer, which turns its tokens' values into their rows of G.
    """

    def __init__(self, attention: Any, norm: Any, b_D: Tensor | None, earlier: Sequence[Tensor]) -> None:
        self.attention, self.norm, heads = attention, norm, attention.num_heads
        self.scores = Scores(attention.k_proj, attention.q_proj, heads, b_D)
        constant_D = attention.out_proj.bias if b_D is None else attention.out_proj.bias + b_D
        output_hdD = by_head(attention.out_proj.weight.T, heads)
        output_heD = torch.cat([output_hdD, (constant_D / heads).expand(heads, 1, -1)], dim=1)
        self.C_heD = [centre(weight) for weight in (*earlier, output_heD)]
        self.G_heD = [weight * norm.weight for weight in self.C_heD]

    def prepare(self, k_DN: Tensor, position_DN: Tensor, dtype: torch.dtype) -> Write:
        centred_DN = centre(k_DN, dim=0)
        cross_heN = [((2 * UNIT / len(k_DN)) * weight @ centred_DN).to(dtype) for weight in self.C_heD]
        square_N = centred_DN.square().mean(dim=0)
        return Write(self.scores.prepare(k_DN, position_DN, dtype), square_N, cross_heN)

    def normalised(self, k_DN: Tensor) -> Tensor:
        """The k after the norm."""
        return centre(k_DN, dim=0) * self.norm.weight[:, None]

    def values(self, tokens_BTD: Tensor) -> Tensor:
        """The tokens' values [B, T, h, e]; the last channel is 1 and carries the constant."""
        return F.pad(self.attention.v_proj(tokens_BTD).unflatten(-1, (self.attention.num_heads, -1)), (0, 1), value=1.0)

    def __call__(
        self, key_BTD: Tensor, values_BThe: Sequence[Tensor], state: State, Y_BRN: Tensor, image: Write
    ) -> State:
        """values: those of all layers so far, including this one. Y: Z, and below it room for this layer's rows."""
        q_BThd, inner_BJR = self.scores.of_prompts(key_BTD, state)
        C_BJD = [times_weight(v, weight) for v, weight in zip(values_BThe, self.C_heD, strict=True)]
        norm = Norm(image, C_BJD, values_BThe, state.dtype)
        R, r_BN = inner_BJR.shape[2], torch.empty_like(state.r_BN)
        for n in pieces(r_BN.shape[1], at_once(r_BN.device, state.dtype)[2]):
            part, Y = state.at(n), Y_BRN[..., n]
            scores_BJN = self.scores(q_BThd, inner_BJR, part, image.queries.at(n))
            P_BJN = scores_BJN.unflatten(1, q_BThd.shape[1:3]).softmax(dim=1).flatten(1, 2)
            torch.div(P_BJN, part.r_B1N, out=Y[:, R:])
            square_BN = part.r_BN.square() * norm.mean_square(n, Y, scores_BJN)
            r_BN[:, n] = part.r_BN * (square_BN + self.norm.eps).rsqrt_()
        return State(r_BN, Y_BRN, torch.cat(C_BJD, dim=1) * self.norm.weight)


class Upscaling:
    """Image tokens and one mask token per prompt -> mask logits, at four times the height and width."""

    def __init__(self, layers: Any, b_D: Tensor) -> None:
        first, self.norm, _, second, _ = layers
        # The norm that follows subtracts each child's mean. Doing so here too keeps it out of half precision.
        self.first_DU = centre(transposed_convolution(first).unflatten(1, (4, -1))).flatten(1)
        self.first_bias_U = centre(first.bias.expand(4, -1)).flatten() + b_D @ self.first_DU
        self.second_uV, self.second_bias = transposed_convolution(second), second.bias

    def prepare(self, k_DN: Tensor, fine0: Tensor, fine1: Tensor, dtype: torch.dtype) -> Pixels:
        """Finer maps [C0, 4s, 4s] and [C1, 2s, 2s]."""
        side = fine1.shape[-1] // 2
        blocks1 = fine1.unflatten(1, (side, 2)).unflatten(3, (side, 2)).permute(1, 3, 2, 4, 0)
        blocks0 = fine0.unflatten(1, (side, 2, 2)).unflatten(4, (side, 2, 2)).permute(1, 4, 2, 5, 3, 6, 0)
        return Pixels(
            first_NU=(k_DN.T @ self.first_DU).to(dtype),
            added_NU=(centre(blocks1).reshape(side * side, -1) + self.first_bias_U).to(dtype),
            added_MV=(blocks0 + self.second_bias).reshape(4 * side * side, -1).to(dtype),
        )

    def __call__(self, state: State, rows: Tensor, hyper: Tensor, image: Pixels) -> Tensor:
        """Mask weights [B, C0] of the prompts `rows` -> logits [B, 4s, 4s]."""
        first_BRU = (state.G_BRD[rows] @ self.first_DU).to(state.dtype)
        hyper, weight, bias, second_uV = (
            x.to(state.dtype) for x in (hyper, self.norm.weight, self.norm.bias, self.second_uV)
        )
        N = len(image.first_NU)
        logits = first_BRU.new_empty(len(hyper), 16 * N, 1)
        _, masks, length = at_once(logits.device, state.dtype)
        for some in pieces(len(hyper), masks):
            part = state.pick(rows[some])
            for n in pieces(N, length):
                tokens = part.at(n)
                x = added_product(image.first_NU[n], tokens.Z_BRN.transpose(1, 2), first_BRU[some])
                torch.addcmul(image.added_NU[n], tokens.r_B1N.transpose(1, 2), x, out=x)
                x = F.gelu(F.layer_norm(x.unflatten(-1, (4, -1)), weight.shape, weight, bias, self.norm.eps))
                x = F.gelu(added_product(image.added_MV[children(n, 4)], x.flatten(1, 2), second_uV))
                torch.bmm(
                    x.unflatten(-1, (4, -1)).flatten(1, 2), hyper[some, :, None], out=logits[some, children(n, 16)]
                )
        # Rows of pixels, outermost to innermost: coarse (y, x), then the two halvings' (y, x).
        side = round(N**0.5)
        blocks = logits.view(len(hyper), side, side, 2, 2, 2, 2)
        return blocks.permute(0, 1, 3, 5, 2, 4, 6).reshape(len(hyper), 4 * side, 4 * side)


def transposed_convolution(layer: Any) -> Tensor:
    """A 2 x 2, stride 2 transposed convolution as a matrix [C_in, 4 * C_out]: each pixel has four children."""
    return layer.weight.permute(0, 2, 3, 1).flatten(1)


def without_autocast(method: Callable[Concatenate[Any, Args], Result]) -> Callable[Concatenate[Any, Args], Result]:
    """Run a method without autocast and gradients: the tables of the image decide what runs in half precision."""

    @functools.wraps(method)
    def run(self: Any, *args: Args.args, **kwargs: Args.kwargs) -> Result:
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return method(self, *args, **kwargs)

    return run


class SharedDecoder:
    """Wraps an upstream `MaskDecoder`, whose weights it uses. Prompts are single points or boxes (no mask prompts).

    It keeps products of weights, so build it after the weights are loaded and moved to their device. The image side
    runs in half precision if `prepare` is called under autocast; it does not matter where the other methods are called.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.transformer = decoder, decoder.transformer
        self.output_tokens = torch.cat(
            [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
            if decoder.pred_obj_scores
            else [decoder.iou_token.weight, decoder.mask_tokens.weight]
        )
        first = 1 if decoder.pred_obj_scores else 0
        self.read = slice(first, first + 1 + decoder.num_mask_tokens)
        self.device, self.dtype = self.output_tokens.device, self.output_tokens.dtype
        self.combine_weights()

    @without_autocast
    def combine_weights(self) -> None:
        self.reads: list[TokensToImage] = []
        self.writes: list[ImageToTokens] = []
        b_D: Any = None
        earlier: list[Tensor] = []
        for layer in self.transformer.layers:
            self.reads.append(TokensToImage(layer.cross_attn_token_to_image, b_D))
            self.writes.append(ImageToTokens(layer.cross_attn_image_to_token, layer.norm4, b_D, earlier))
            b_D, earlier = layer.norm4.bias, self.writes[-1].G_heD
        self.reads.append(TokensToImage(self.transformer.final_attn_token_to_image, b_D))
        self.upscaling = Upscaling(self.decoder.output_upscaling, b_D)

    def prepare(self, embedding: Tensor, position: Tensor, finer: Sequence[Tensor]) -> Image:
        """Image embedding and positional encoding [1, D, s, s], finer maps [1, C0, 4s, 4s] and [1, C1, 2s, 2s].

        Any floating dtype. The embedding includes what is added for prompts without a mask (`no_mask_embed`).
        """
        device = self.device.type
        half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.dtype
        embedding, position, fine0, fine1 = (x[0].to(self.dtype) for x in (embedding, position, *finer))
        return self.tables(embedding, position, fine0, fine1, half)

    @without_autocast
    def tables(self, embedding: Tensor, position: Tensor, fine0: Tensor, fine1: Tensor, dtype: torch.dtype) -> Image:
        k_DN, position_DN = embedding.flatten(1), position.flatten(1)
        reads, writes = [self.reads[0].prepare(k_DN, position_DN, dtype)], []
        for write, read in zip(self.writes, self.reads[1:], strict=True):
            writes.append(write.prepare(k_DN, position_DN, dtype))
            k_DN = write.normalised(k_DN)
            reads.append(read.prepare(k_DN, position_DN, dtype))
        return Image(reads, writes, self.upscaling.prepare(k_DN, fine0, fine1, dtype))

    @without_autocast
    def attend(self, prompts: Tensor, image: Image) -> tuple[Tensor, State]:
        """Prompt embeddings [B, P, D] -> tokens [B, 5, D] and image tokens after the two-way transformer.

        The tokens are those of the predicted IoU and of the four masks, in the precision of the weights.
        """
        output = self.output_tokens.expand(len(prompts), -1, -1)
        embedding = tokens = torch.cat([output, prompts.to(self.dtype)], dim=1)
        B, T, D = embedding.shape
        J, N = T * self.transformer.num_heads, len(image.pixels.first_NU)
        Z_BRN = image.pixels.first_NU.new_empty(B, len(self.writes) * J, N)  # of all layers
        state = State(embedding.new_ones(B, N), Z_BRN[:, :0], embedding.new_empty(B, 0, D))
        values: list[Tensor] = []
        for i, layer in enumerate(self.transformer.layers):
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(tokens, tokens, tokens)
            else:
                query = tokens + embedding
                tokens = tokens + layer.self_attn(query, query, tokens)
            tokens = layer.norm1(tokens)
            tokens = layer.norm2(tokens + self.reads[i](tokens + embedding, state, image.reads[i]))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            values.append(self.writes[i].values(tokens))
            state = self.writes[i](tokens + embedding, values, state, Z_BRN[:, : (i + 1) * J], image.writes[i])
        tokens, embedding = tokens[:, self.read], embedding[:, self.read]
        tokens = tokens + self.reads[-1](tokens + embedding, state, image.reads[-1])
        return self.transformer.norm_final_attn(tokens), state

    @without_autocast
    def best(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, 5, D] -> of the three masks the highest predicted IoU [B], and that mask's weights [B, C0]."""
        ious = self.decoder.iou_prediction_head(tokens[:, 0])[:, 1:]
        iou, which = ious.max(dim=1)
        # Each mask token has a small network of its own; token 0 is for prompts without ambiguity.
        networks = list(enumerate(self.decoder.output_hypernetworks_mlps))[1:]
        hyper = torch.stack([network(tokens[:, 1 + i]) for i, network in networks], dim=1)
        return iou, hyper[torch.arange(len(which), device=which.device), which]

    @without_autocast
    def single(self, tokens: Tensor) -> Tensor:
        """Tokens [B, 5, D] -> weights [B, C0] of the one mask for prompts without ambiguity, such as boxes."""
        return self.decoder.output_hypernetworks_mlps[0](tokens[:, 1])

    @without_autocast
    def upscale(self, state: State, rows: Tensor, hyper: Tensor, image: Image) -> Tensor:
        """Mask weights [b, C0] of the prompts at `rows`, i64 [b] -> logits [b, 4s, 4s], precise as the image side."""
        return self.upscaling(state, rows, hyper, image.pixels)
