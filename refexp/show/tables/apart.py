"""The check before any average: what tells runs apart, and the sets of runs that differ in the seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from refexp.show.tables.runs import Runs
from refexp.show.tables.settings import FIRST, key_of, matters

OF_ENDED = ("targets", "note")
"""What a run has said only at its end. Runs of other data or weights than the rest may differ in nothing else."""


def varying(runs: Runs, given: Sequence[str] = ()) -> list[str]:
    """The keys that tell runs apart where the given ones do not; groups first, `seed` if it differs.

    A setting that follows from others before it (a matcher's own from `matcher`) is not named, nor is one that changes
    no number. Runs that never began, whose settings are a guess, are asked only if there are no others.
    """
    begun = runs.frame["state"] != "not started"
    frame = runs.frame[begun] if begun.any() else runs.frame
    order = [*FIRST, *typed(frame), "seed", *runs.settings, *OF_ENDED]
    keys = [key for key in dict.fromkeys(order) if key in frame and matters(key) and key not in given]
    values = frame[[*given, *keys]].astype(object).fillna("none")
    ended = values[frame["targets"].notna()]
    taken = list(given)
    for key in keys:
        known = ended if key in OF_ENDED else values
        if known[key].nunique() > 1 and variants(known, [*taken, key]) > variants(known, taken):
            taken.append(key)
    return taken[len(given) :]


def variants(frame: pd.DataFrame, keys: Sequence[str]) -> int:
    """How many combinations of these keys' values there are; 1 of no key."""
    return len(frame[keys].drop_duplicates()) if keys else 1


def typed(frame: pd.DataFrame) -> list[str]:
    """The keys that were set on the command line of any of these runs, without the seed."""
    return sorted({key_of(part) for overrides in frame["overrides"] for part in overrides.split()} - {"seed"})


def split(runs: Runs, keys: Sequence[str]) -> list[tuple[str, Runs]]:
    """Sets of runs that differ in these keys and the seed alone, by what sets each apart: `dataset=dior`, or ""."""
    more = [key for key in varying(runs, keys) if key != "seed"]
    if not more:
        return [("", runs)]
    # A run without an end has not said what it is of: it is listed with the first that has.
    first = runs.frame[list(OF_ENDED)].bfill().iloc[0]
    known = replace(runs, frame=runs.frame.fillna(first))
    parts = pd.DataFrame({key: known.values(key) for key in more}).groupby(more, observed=True)
    return [
        (", ".join(f"{key}={value or 'none'}" for key, value in zip(more, values, strict=True)), runs.only(part.index))
        for values, part in parts
    ]
