"""One image's way through the method: what is extracted from it, and what is detected in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import torch

from refexp.encoders.base import Encoder
from refexp.machine.networks import computing
from refexp.masks import low_res_boxes
from refexp.method.contract import check_kept, check_matched, check_proposals, check_tokens
from refexp.method.pooling import pool_masks
from refexp.proposers.base import Proposer
from refexp.types import Candidates, Detections, ImageId, MemoryBank, Proposals, Target


class Matcher(Protocol):
    """Proposals x memory bank -> candidates with class and score.

    Two class attributes declare what a matcher needs besides pooled features. Both are False where they are missing.
    needs_patches: `bank.patches`. Cost: one forward pass per reference in each run, and 4 * G^2 * C bytes of memory.
    needs_tokens: `proposals.tokens`. Cost: one more forward pass per target. The store keeps them, in float16.
    """

    def match(self, proposals: Proposals, bank: MemoryBank) -> Candidates: ...


def needs(matcher: Any, what: Literal["patches", "tokens"]) -> bool:
    """Whether a matcher declares that it needs the references' patches, or the targets' tokens."""
    return getattr(matcher, f"needs_{what}", False)


class Step(Protocol):
    """One step of the postprocessing: candidates in rank order -> candidates, and proposals if it changes masks."""

    def __call__(self, candidates: Candidates, proposals: Proposals) -> Candidates | tuple[Candidates, Proposals]: ...


def extract(targets: Sequence[Target], encoder: Encoder, proposer: Proposer, device: torch.device) -> list[Proposals]:
    """The expensive half, which no reference changes: proposals and their pooled features (METHOD 2, 3.1).

    The targets are encoded together, and proposed for one by one.
    """
    with computing(device):  # in float32 but where a network says otherwise
        squares = torch.stack([target.square.to(device, non_blocking=True) for target in targets])
        tokens = check_tokens(encoder, encoder.encode(squares), len(targets))
        found = [check_proposals(proposer, proposer.propose(target), target) for target in targets]
        return [
            Proposals(
                quality=masks.quality.cpu(),
                boxes_lr=low_res_boxes(masks.masks_lr).cpu(),
                features=pool_masks(masks.masks_lr, image_tokens).cpu(),
                masks=masks.masks,
                size=target.size,
            )
            for target, masks, image_tokens in zip(targets, found, tokens, strict=True)
        ]


def with_tokens(proposals: Proposals, target: Target, encoder: Encoder, device: torch.device) -> Proposals:
    """The proposals of a target together with its tokens: the encoder runs on the target again."""
    return replace(proposals, tokens=tokens_of(target, encoder, device).float())


def tokens_of(target: Target, encoder: Encoder, device: torch.device) -> torch.Tensor:
    """Encode a target. Returns its tokens f16 [G * G, C], as the store keeps them: half the size of f32."""
    with computing(device):
        tokens = check_tokens(encoder, encoder.encode(target.square.to(device)[None]), 1)
    return tokens[0].half().cpu().contiguous()  # as read from the store: products depend on the layout


def detect(
    image_id: ImageId, proposals: Proposals, bank: MemoryBank, matcher: Matcher, steps: Iterable[Step]
) -> Detections:
    """The cheap half: match, then postprocess (METHOD 3.2 to 4)."""
    candidates = check_matched(matcher, matcher.match(proposals, bank), proposals, bank)
    for step in steps:
        candidates, proposals = check_kept(step, step(candidates, proposals), candidates, proposals)
    masks = [proposals.masks[i] for i in candidates.index.tolist()]
    return Detections(image_id, candidates.labels, candidates.scores, masks, size=proposals.size)
