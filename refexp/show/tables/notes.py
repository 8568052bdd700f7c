"""Notes on a table: warnings about its numbers, and every run that is missing."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from refexp.show.tables.apart import typed
from refexp.show.tables.runs import Runs
from refexp.show.tables.settings import FIRST, label, matters
from refexp.show.words import counted, listed

MAX_LISTED = 12
"""Cells without a run that are listed. The rest is only counted."""


def head_of(runs: Runs) -> str:
    """`18 runs: 12 completed, 6 failed. All: dataset=synthetic, shots=5`."""
    frame = runs.frame
    fixed = [key for key in FIRST if key in runs.settings and frame[key].nunique(dropna=False) == 1]
    common = ", ".join(f"{key}={label(frame[key].iloc[0])}" for key in fixed)
    return f"{counted(len(frame), 'run', 'runs')}: {', '.join(states(frame))}. All: {common}"


def states(frame: pd.DataFrame) -> list[str]:
    """`12 completed`, `6 failed`."""
    return [f"{count} {state}" for state, count in frame["state"].value_counts().items()]


def weights(frame: pd.DataFrame) -> list[str]:
    """The notes on weights that are not the published ones, of all these runs."""
    return sorted(filter(None, frame["note"].dropna().unique()))


def notes_of(placed: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Warnings about weights, classes, further differences, repeated runs and commits. keys: rows and cols."""
    done = placed[placed["state"] == "completed"]
    found = [f"{whose(done, done['note'] == note, keys)}{note}" for note in weights(done)]
    if done["class_names"].nunique() > 1 and len({data[:2] for data in done["data"]}) == 1:
        fewest, most = done["classes"].min(), done["classes"].max()
        found.append(f"Not all runs have the same classes ({fewest:.0f} to {most:.0f} of them).")
    for key in filter(matters, typed(done)):
        related = any(f"{key}.".startswith(f"{other}.") for other in keys)
        if not related and key in done and done[key].nunique(dropna=False) > 1:
            # It changes only together with a row, a column or the seed, so the table cannot separate their effects.
            found.append(f"{key} differs as well, together with {' or '.join([*keys, 'seed'])}.")
    if again := done.duplicated(["row", "col", "seed"]).sum():
        repeats = counted(int(again), "run repeats", "runs repeat")
        found.append(f"{repeats} the settings and the seed of another run; the later one counts.")
    commits = sorted(done["commit"].dropna().unique())
    if len(commits) > 1:
        short = ", ".join(commit[:12] + commit[40:] for commit in commits)  # the rest is -dirty
        found.append(f"The runs come from different commits: {short}.")
    return found


def whose(done: pd.DataFrame, concerned: pd.Series, keys: Sequence[str]) -> str:
    """A prefix that names the concerned runs. concerned: mask over `done`.

    `matcher=shuffled: ` if a key separates them from the others, else their names; "" for all runs.
    """
    if concerned.all():
        return ""
    for side, key in zip(("row", "col"), keys, strict=False):
        values = done.loc[concerned, side].unique()
        if not done.loc[~concerned, side].isin(values).any():
            return f"{key}={','.join(sorted(values))}: "
    return f"{', '.join(done.loc[concerned, 'run'])}: "


def failures(frame: pd.DataFrame, metric: str | None = None) -> list[str]:
    """One line per problem: the runs that are not completed, or that have no value of this metric."""
    lacking = frame["state"] != "completed"
    if metric:
        lacking |= frame[metric].isna()
    common = shared(frame) if len(frame) > 1 else []
    found = []
    for (state, message), group in frame[lacking].groupby(["state", "message"], sort=False):
        what = " ".join(part for part in shared(group) if part not in common)
        named = f"{listed(group['called'])} {f'without {metric}' if state == 'completed' else state}"
        found.append(f"{named}{f' ({what})' if what else ''}{f': {message}' if message else ''}")
    return found


def shared(frame: pd.DataFrame) -> list[str]:
    """The overrides that all these runs have."""
    first, *others = (overrides.split() for overrides in frame["overrides"])
    return [part for part in first if all(part in other for other in others)]


def absent(placed: pd.DataFrame, seeded: bool, keys: int) -> list[str]:
    """One line per cell without a run, or with missing seeds. seeded: the runs of a cell differ in the seed.

    keys: the number of keys of the table. With one key, the only column needs no name.
    """
    runs = placed.groupby(["row", "col", "seed"], observed=False).size()
    found = []
    for where, of_seed in runs.groupby(["row", "col"], observed=False):
        there = ", ".join(where[:keys])
        if not of_seed.any():
            found.append(f"no run: {there}")
        elif seeded and not of_seed.all():
            found.append(f"no run: {there}, seed {', '.join(of_seed[of_seed == 0].index.get_level_values('seed'))}")
    return found[:MAX_LISTED] + ([f"no run: {len(found) - MAX_LISTED} more cells"] if len(found) > MAX_LISTED else [])
