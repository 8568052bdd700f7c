"""The contract at the seams: what components return is checked, until an answer that is not empty has passed.

An answer with the wrong shape would otherwise fail later, in code that its author does not know, or give wrong numbers.
Each check returns the answer that it was given, or raises RefexpError that names the component as the user chose it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig

from refexp.encoders.base import Encoder
from refexp.errors import RefexpError
from refexp.masks import LOW_RES, Rle, areas
from refexp.proposers.base import Proposer
from refexp.types import Candidates, MaskProposals, MemoryBank, Proposals, Target

ROUNDING = 1e-4
"""How far a quality may leave [0, 1] by rounding."""

OFFERED: dict[str, tuple[type, tuple[str, ...]]] = {
    "encoder": (Encoder, ("input_size", "grid", "reference_context", "batch")),
    "proposer": (Proposer, ("image_size",)),
    "matcher": (object, ("match",)),
    "postprocess": (object, ("__call__",)),
}
"""The base class of each group's components, and the attributes that its code reads."""

Built = TypeVar("Built")

_passed: dict[tuple[int, str], weakref.ref[Any]] = {}
"""By id of the component and name of the check. The reference shows that the id still means the same component."""


def check_offered(group: str, component: Built) -> Built:
    """A component that has what its group asks for; nothing is called."""
    base, attributes = OFFERED[group]
    if not isinstance(component, base):
        raise RefexpError(
            f"{chosen(group, component)}: {name_of(component)} is not a subclass of {base.__module__}.{base.__name__}."
        )
    if missing := [name for name in attributes if not hasattr(component, name)]:
        raise RefexpError(f"{chosen(group, component)}: {name_of(component)} has no {', no '.join(missing)}.")
    return component


def check_tokens(encoder: Encoder, tokens: torch.Tensor, images: int) -> torch.Tensor:
    """`encoder.forward` of B = `images` -> f32 [B, G * G, C], finite. Checked once for each B."""
    if _due(encoder, f"forward of {images}"):
        who = f"{chosen('encoder', encoder)}: forward"
        _tensor(who, "", tokens, torch.float32, (images, encoder.grid**2, "C"), f" for grid={encoder.grid}")
        _finite(who, "", tokens)
        _pass(encoder, f"forward of {images}")
    return tokens


def check_proposals(proposer: Proposer, found: MaskProposals, target: Target) -> MaskProposals:
    """`proposer.propose` -> M >= 0 proposals; see `MaskProposals`. No mask may be empty, at either size."""
    if _due(proposer, "propose"):
        who = f"{chosen('proposer', proposer)}: propose"
        _instance(who, found, MaskProposals)
        _rles(who, found.masks, target.size)
        count, each = len(found.masks), ", one for each of masks"
        _tensor(who, "quality", found.quality, torch.float32, (count,), each)
        _tensor(who, "masks_lr", found.masks_lr, torch.bool, (count, LOW_RES, LOW_RES), each)
        _finite(who, "quality", found.quality)
        _range(who, "quality", found.quality, 1, ROUNDING)
        _filled(who, "masks", (areas(found.masks) > 0).tolist())
        _filled(who, "masks_lr", found.masks_lr.flatten(1).any(dim=1).tolist())
        if count:
            _pass(proposer, "propose")
    return found


def check_box_masks(proposer: Proposer, masks: list[Rle], target: Target, boxes: int) -> list[Rle]:
    """`proposer.masks_in_boxes` -> one mask for each box, in order; it may be empty."""
    if _due(proposer, "masks_in_boxes"):
        who = f"{chosen('proposer', proposer)}: masks_in_boxes"
        _rles(who, masks, target.size)
        if len(masks) != boxes:
            raise RefexpError(f"{who} gave {len(masks)} masks; expected {boxes}, one for each box.")
        _pass(proposer, "masks_in_boxes")
    return masks


def check_matched(matcher: Any, found: Candidates, proposals: Proposals, bank: MemoryBank) -> Candidates:
    """`matcher.match` -> N >= 0 candidates: proposals and classes that exist, no pair of them twice, finite scores."""
    if _due(matcher, "match"):
        who = f"{chosen('matcher', matcher)}: match"
        _candidates(who, found)
        _range(who, "index", found.index, len(proposals) - 1)
        _range(who, "labels", found.labels, len(bank.prototypes) - 1)
        _pairs(who, found)
        if len(found):
            _pass(matcher, "match")
    return found


def check_kept(step: Any, answer: Any, given: Candidates, proposals: Proposals) -> tuple[Candidates, Proposals]:
    """A step of the postprocessing -> some of the candidates that it was given, none twice, in any order.

    A step that changes masks answers with the candidates and with new proposals, as many and in the same order.
    """
    changes_masks = isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Proposals)
    kept, new_proposals = answer if changes_masks else (answer, proposals)
    if _due(step, "step"):
        who = chosen("postprocess", step)
        who = who if who.endswith(f" {name_of(step)}") else f"{who}: {name_of(step)}"
        _candidates(who, kept)
        if new := _pairs(who, kept) - _pairs(who, given):
            index, label = min(new)
            raise RefexpError(
                f"{who} gave proposal {index} with class {label}, which is not among the candidates that it got; "
                "expected some of these, reordered or rescored."
            )
        if changes_masks:
            _reshaped(who, kept, new_proposals, proposals)
        if len(kept):
            _pass(step, "step")
    return kept, new_proposals


def forget() -> None:
    """Check every component anew."""
    _passed.clear()


def chosen(group: str, component: Any) -> str:
    """`encoder=dinov2_vitl14`: the option of a Hydra run; elsewhere, and for a `_target_` typed in, the class."""
    if HydraConfig.initialized():
        run = HydraConfig.get()
        typed = (f"{group}._target_=", f"{group}={{")
        option = run.runtime.choices.get(group)
        if option and not any(override.lstrip("+").startswith(typed) for override in run.overrides.task):
            return f"{group}={option}"
    return f"{group} {name_of(component)}"


def name_of(component: Any) -> str:
    """The name of a component's class, or of a function."""
    return getattr(component, "__name__", type(component).__name__)  # a step may be a function


def _due(component: Any, check: str) -> bool:
    passed = _passed.get((id(component), check))
    return passed is None or passed() is not component


def _pass(component: Any, check: str) -> None:
    with suppress(TypeError):  # of a class with __slots__, which is checked each time
        _passed[id(component), check] = weakref.ref(component)


def _instance(who: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise RefexpError(f"{who} gave {type(value).__name__}; expected refexp.types.{kind.__name__}.")


def _tensor(who: str, what: str, value: Any, dtype: torch.dtype, shape: Sequence[int | str], why: str = "") -> None:
    """Names in `shape` stand for any number; C for any but 0."""
    what = f"{what} " if what else ""
    if not isinstance(value, torch.Tensor):
        raise RefexpError(f"{who} gave {what}{type(value).__name__}; expected a tensor.")
    fits = value.ndim == len(shape) and all(
        side == wanted if isinstance(wanted, int) else side or wanted != "C"
        for side, wanted in zip(value.shape, shape, strict=True)
    )
    if not fits:
        expected = f"[{', '.join(map(str, shape))}]"
        raise RefexpError(f"{who} gave {what}{list(value.shape)}; expected {expected}{why}")
    if value.dtype != dtype:
        came, expected = (str(kind).removeprefix("torch.") for kind in (value.dtype, dtype))
        raise RefexpError(f"{who} gave {what}{came}; expected {expected}")


def _finite(who: str, what: str, values: torch.Tensor) -> None:
    if bad := int((~values.isfinite()).sum()):
        raise RefexpError(f"{who} gave {what or 'values'} that are NaN or infinite, {bad} of {values.numel()}.")


def _range(who: str, what: str, values: torch.Tensor, high: int, slack: float = 0) -> None:
    wrong = values[(values < -slack) | (values > high + slack)]
    if len(wrong):
        expected = f"{what} in [0, {high}]" if high >= 0 else f"no {what}: there is nothing to choose from"
        raise RefexpError(f"{who} gave {what} {wrong[0].item():g}; expected {expected}.")


def _filled(who: str, what: str, filled: list[bool]) -> None:
    if not all(filled):
        raise RefexpError(f"{who} gave an empty mask, {what}[{filled.index(False)}]; expected it to be left out.")


def _rles(who: str, masks: Any, size: tuple[int, int]) -> None:
    if not isinstance(masks, list):
        raise RefexpError(f"{who} gave {type(masks).__name__} of masks; expected a list of RLEs (refexp.masks.encode).")
    for i, mask in enumerate(masks):
        counts = mask.get("counts") if isinstance(mask, dict) else None
        if not isinstance(counts, bytes) or "size" not in mask:
            raise RefexpError(
                f"{who} gave masks[{i}] {type(mask).__name__}; expected a compressed RLE (refexp.masks.encode)."
            )
        if tuple(mask["size"]) != tuple(size):
            raise RefexpError(f"{who} gave masks[{i}] of size {list(mask['size'])}; expected {list(size)}, the image's")


def _candidates(who: str, found: Any) -> None:
    _instance(who, found, Candidates)
    _tensor(who, "index", found.index, torch.int64, ("N",))
    for what, dtype in (("labels", torch.int64), ("scores", torch.float32)):
        _tensor(who, what, getattr(found, what), dtype, (len(found),), ", one for each of index")
    for what in ("index", "labels", "scores"):
        if (device := getattr(found, what).device.type) != "cpu":
            raise RefexpError(f"{who} gave {what} on {device}; expected them on the CPU, as the proposals are.")
    _finite(who, "scores", found.scores)


def _reshaped(who: str, kept: Candidates, new: Proposals, old: Proposals) -> None:
    """As many proposals as before, of the same image; no kept mask may be empty."""
    _rles(who, new.masks, old.size)
    if len(new.masks) != len(old.masks):
        raise RefexpError(f"{who} gave {len(new.masks)} proposals; expected {len(old.masks)}, as it got.")
    for what in ("quality", "boxes_lr", "features"):
        before: torch.Tensor = getattr(old, what)
        _tensor(who, what, getattr(new, what), before.dtype, before.shape)
        _finite(who, what, getattr(new, what))
    rows = kept.index.tolist()
    if empty := [row for row, area in zip(rows, areas([new.masks[row] for row in rows]), strict=True) if not area]:
        raise RefexpError(f"{who} gave an empty mask, masks[{empty[0]}]; expected its candidates to be dropped.")


def _pairs(who: str, found: Candidates) -> set[tuple[int, int]]:
    """(proposal, class) of each candidate. Raises RefexpError if a pair comes twice."""
    pairs = Counter(zip(found.index.tolist(), found.labels.tolist(), strict=True))
    for (index, label), count in pairs.items():
        if count > 1:
            raise RefexpError(f"{who} gave proposal {index} with class {label} {count} times; expected it once.")
    return set(pairs)
