"""The verdict of the diagnostics in plain words: does segmentation or matching limit the result?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEGMENTATION, MATCHING, BOTH, LITTLE = "segmentation", "matching", "both", "little"
LITTLE_LEFT = 0.05
"""If nAP lacks less than this of 1, the verdict is LITTLE."""
CLEARLY = 1.5
"""One part is named alone if it loses more than this factor times the loss of the other."""

NOUNS = {"segm": "masks", "bbox": "boxes"}
MEANINGS = {
    "class": "objects with the wrong class",
    "localisation": "objects with inexact outlines",
    "both": "objects with inexact outlines and the wrong class",
    "duplicate": "objects detected twice",
    "background": "detections of background",
    "missed": "missed objects",
}


def reach_verdict(
    kind: str,
    as_it_is: Mapping[str, float | None],
    perfect: Mapping[str, float | None],
    instances: Mapping[str, int],
    costs: Mapping[str, float | None],
) -> dict[str, Any]:
    """Decide what limits the result, over all IoUs (`by`) and at IoU .5 (`by50`), and explain it in `text`.

    as_it_is, perfect: "nAP" and "nAP50" of the run, and of perfect matching on its proposals (`oracle_matching`).
    The loss of matching (classification, ranking, merging) is what perfect matching adds. The loss of segmentation is
    what perfect matching lacks of 1.
    instances: the result of `account`. costs: dAP50 by kind of error.
    `by` and `by50` are None if no instance counts.
    """
    if as_it_is["nAP"] is None:
        return {"by": None, "by50": None, "text": "No instance counts, so there is no verdict."}
    by, by50 = (weigh(*losses(as_it_is[name], perfect[name])) for name in ("nAP", "nAP50"))
    noun = NOUNS[kind]
    return {"by": by, "by50": by50, "text": " ".join(_sentences(noun, by, by50, as_it_is, perfect, instances, costs))}


def losses(as_it_is: float | None, perfect: float | None) -> tuple[float, float]:
    """Return the losses of matching and segmentation. Their sum is 1 - nAP."""
    assert as_it_is is not None and perfect is not None  # both are numbers if instances count
    ceiling = max(as_it_is, perfect)
    return ceiling - as_it_is, 1 - ceiling


def weigh(matching: float, segmentation: float) -> str:
    """Return which of the two losses is larger: MATCHING, SEGMENTATION, BOTH or LITTLE."""
    if matching + segmentation < LITTLE_LEFT:
        return LITTLE
    if matching > CLEARLY * segmentation:
        return MATCHING
    return SEGMENTATION if segmentation > CLEARLY * matching else BOTH


def _sentences(
    noun: str,
    by: str,
    by50: str,
    as_it_is: Mapping[str, float | None],
    perfect: Mapping[str, float | None],
    instances: Mapping[str, int],
    costs: Mapping[str, float | None],
) -> list[str]:
    verdicts = {
        MATCHING: "matching limits the result",
        SEGMENTATION: "segmentation limits the result",
        BOTH: "segmentation and matching limit the result about equally",
        LITTLE: "little improvement is possible",
    }
    if by == by50:
        sentences = [f"{verdicts[by].capitalize()} ({noun})."]
    else:
        sentences = [f"At IoU .5, {verdicts[by50]} ({noun}). Over all IoUs, {verdicts[by]}."]
    for name in ("nAP50", "nAP"):
        matching, segmentation = losses(as_it_is[name], perfect[name])
        sentences.append(
            f"{name} is {_percent(as_it_is[name])}: perfect matching and merging of the same proposals would add "
            f"{_percent(matching)}; the remaining {_percent(segmentation)} requires better proposals."
        )
    sentences.append(
        f"Of {sum(instances.values())} instances (IoU .5, any score), {instances['found']} are found, "
        f"{instances['lost']} are lost although a proposal covers them, and {instances['unproposed']} have no proposal."
    )
    worst, cost = max(costs.items(), key=lambda item: item[1] or 0.0)
    if cost:
        sentences.append(
            f"The costliest errors are {MEANINGS[worst]}: without them, nAP50 would rise by {_percent(cost)}."
        )
    return sentences


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
