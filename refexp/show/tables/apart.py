"""Checks before averaging: the settings in which runs differ, and the sets of runs that differ in the seed only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from refexp.show.tables.runs import Runs
from refexp.show.tables.settings import FIRST, PROTOCOLS, key_of, matters

OF_ENDED = ("targets", "note")
"""Facts that a run records only at its end. They can be the only difference, if data or weights have changed."""


def varying(runs: Runs, given: Sequence[str] = ()) -> list[str]:
    """The further keys in which runs differ that agree in the given keys. Groups come first; `seed` if it differs.

    Skips a setting that follows from an earlier one (a matcher's own settings follow from `matcher`), and a setting
    that changes no result. The settings of runs that never started are guessed, so these runs count only if there are
    no others.
    """
    begun = runs.frame["state"] != "not started"
    frame = runs.frame[begun] if begun.any() else runs.frame
    order = [*FIRST, *PROTOCOLS, *typed(frame), "seed", *runs.settings, *OF_ENDED]
    keys = [key for key in dict.fromkeys(order) if key in frame and matters(key) and key not in given]
    values = frame[[*given, *keys]].astype(object).fillna("none")
    ended = values[frame["targets"].notna()]
    taken = list(given)
    for key in keys:
        # A key is worth naming only if it splits runs that all keys so far leave together.
        known = ended if key in OF_ENDED else values
        if known[key].nunique() > 1 and variants(known, [*taken, key]) > variants(known, taken):
            taken.append(key)
    return taken[len(given) :]


def variants(frame: pd.DataFrame, keys: Sequence[str]) -> int:
    """The number of different value combinations of these keys; 1 without keys."""
    return len(frame[keys].drop_duplicates()) if keys else 1


def typed(frame: pd.DataFrame) -> list[str]:
    """The keys that any of these runs set on the command line, except the seed."""
    return sorted({key_of(part) for overrides in frame["overrides"] for part in overrides.split()} - {"seed"})


def split(runs: Runs, keys: Sequence[str]) -> list[tuple[str, Runs]]:
    """Split into sets of runs that differ only in these keys and the seed. Each has a name: `dataset=dior`, or ""."""
    more = [key for key in varying(runs, keys) if key != "seed"]
    if not more:
        return [("", runs)]
    # A run that did not end has not recorded these facts: list it with the first run that has.
    first = runs.frame[list(OF_ENDED)].bfill().iloc[0]
    known = replace(runs, frame=runs.frame.fillna(first))
    parts = pd.DataFrame({key: known.values(key) for key in more}).groupby(more, observed=True)
    return [
        (", ".join(f"{key}={value or 'none'}" for key, value in zip(more, values, strict=True)), runs.only(part.index))
        for values, part in parts
    ]
