"""Segmentation or matching: the diagnosis in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEGMENTATION, MATCHING, BOTH, LITTLE = "segmentation", "matching", "both", "little"
LITTLE_LEFT = 0.05
"""nAP short of 1 that is not worth a verdict."""
CLEARLY = 1.5
"""How many times more one part must lose than the other to be called the one."""

NOUNS = {"segm": "masks", "bbox": "boxes"}
MEANINGS = {
    "class": "named wrongly",
    "localisation": "outlined badly",
    "both": "outlined badly and named wrongly",
    "duplicate": "found twice",
    "background": "found where nothing is",
    "missed": "missed altogether",
}


def reach_verdict(
    kind: str,
    as_it_is: Mapping[str, float | None],
    perfect: Mapping[str, float | None],
    instances: Mapping[str, int],
    costs: Mapping[str, float | None],
) -> dict[str, Any]:
    """What holds an experiment back, at IoU .5 and over all IoUs, and a paragraph that says so.

    as_it_is, perfect: "nAP" and "nAP50" of the run, and of perfect matching on its proposals (`oracle_matching`).
    What perfect matching adds is matching's loss (naming, ranking, merging); what it leaves below 1 is segmentation's.
    instances: of `account`. costs: dAP50 by kind of error. `by` and `by50` are None where no instance counts.
    """
    if as_it_is["nAP"] is None:
        return {"by": None, "by50": None, "text": "No instance counts, so nothing can be said."}
    by, by50 = (weigh(*losses(as_it_is[name], perfect[name])) for name in ("nAP", "nAP50"))
    noun = NOUNS[kind]
    return {"by": by, "by50": by50, "text": " ".join(_sentences(noun, by, by50, as_it_is, perfect, instances, costs))}


def losses(as_it_is: float | None, perfect: float | None) -> tuple[float, float]:
    """What matching and what segmentation lose of a nAP; together what it lacks of 1."""
    assert as_it_is is not None and perfect is not None  # where instances count, both are numbers
    ceiling = max(as_it_is, perfect)
    return ceiling - as_it_is, 1 - ceiling


def weigh(matching: float, segmentation: float) -> str:
    """Which of the two losses is the one to work on."""
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
    says = {
        MATCHING: "matching holds this experiment back",
        SEGMENTATION: "segmentation holds this experiment back",
        BOTH: "segmentation and matching hold this experiment back about equally",
        LITTLE: "little is left to gain",
    }
    if by == by50:
        sentences = [f"{says[by].capitalize()} ({noun})."]
    else:
        sentences = [f"At IoU .5 {says[by50]}; over all IoUs {says[by].replace('this experiment', 'it')} ({noun})."]
    for name in ("nAP50", "nAP"):
        matching, segmentation = losses(as_it_is[name], perfect[name])
        sentences.append(
            f"{name} is {_percent(as_it_is[name])}: perfect matching and merging of the same proposals would add "
            f"{_percent(matching)}, the other {_percent(segmentation)} takes better proposals."
        )
    sentences.append(
        f"Of {sum(instances.values())} instances, at IoU .5 and any score: found {instances['found']}, lost although a "
        f"proposal covers them {instances['lost']}, never proposed {instances['unproposed']}."
    )
    worst, cost = max(costs.items(), key=lambda item: item[1] or 0.0)
    if cost:
        sentences.append(
            f"The costliest errors are things {MEANINGS[worst]}: without them nAP50 rises by {_percent(cost)}."
        )
    return sentences


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
