"""What must be said beside a table: of its numbers, and of every run that it lacks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from refexp.show.tables.apart import typed
from refexp.show.tables.runs import Runs
from refexp.show.tables.settings import FIRST, label, matters
from refexp.show.words import counted

TOLD = 12
"""Places without a run that are listed; more are counted."""


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
    """What must be said of the weights of some of these runs."""
    return sorted(filter(None, frame["note"].dropna().unique()))


def notes_of(placed: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Of the weights, of what else differs, of runs that are there twice and of the code. keys: rows and cols."""
    done = placed[placed["state"] == "completed"]
    found = [f"{whose(done, done['note'] == note, keys)}{note}" for note in weights(done)]
    if done["class_names"].nunique() > 1 and len({data[:2] for data in done["data"]}) == 1:
        fewest, most = done["classes"].min(), done["classes"].max()
        found.append(f"Not all runs have the same classes ({fewest:.0f} to {most:.0f} of them).")
    for key in filter(matters, typed(done)):
        related = any(f"{key}.".startswith(f"{other}.") for other in keys)
        if not related and key in done and done[key].nunique(dropna=False) > 1:
            found.append(f"{key} differs as well, together with {' or '.join([*keys, 'seed'])}.")
    if again := done.duplicated(["row", "col", "seed"]).sum():
        found.append(f"{again} of the runs repeat another's settings and seed: the later one counts.")
    commits = sorted(done["commit"].dropna().unique())
    if len(commits) > 1:
        found.append(f"The runs are of different commits: {', '.join(commit[:12] for commit in commits)}.")
    return found


def whose(done: pd.DataFrame, mine: pd.Series, keys: Sequence[str]) -> str:
    """`matcher=shuffled: ` where a key tells these runs from the others, else their names; "" for all runs."""
    if mine.all():
        return ""
    for side, key in zip(("row", "col"), keys, strict=False):
        values = done.loc[mine, side].unique()
        if not done.loc[~mine, side].isin(values).any():
            return f"{key}={','.join(sorted(values))}: "
    return f"{', '.join(done.loc[mine, 'run'])}: "


def failures(frame: pd.DataFrame, metric: str | None = None) -> list[str]:
    """The runs that are not completed, or have no value of this metric: a line for each thing that is wrong."""
    lacking = frame["state"] != "completed"
    if metric:
        lacking |= frame[metric].isna()
    common = shared(frame) if len(frame) > 1 else []
    found = []
    for (state, message), group in frame[lacking].groupby(["state", "message"], sort=False):
        what = " ".join(part for part in shared(group) if part not in common)
        named = f"{', '.join(group['called'])} {f'without {metric}' if state == 'completed' else state}"
        found.append(f"{named}{f' ({what})' if what else ''}{f': {message}' if message else ''}")
    return found


def shared(frame: pd.DataFrame) -> list[str]:
    """The overrides that all these runs have."""
    first, *others = (overrides.split() for overrides in frame["overrides"])
    return [part for part in first if all(part in other for other in others)]


def absent(placed: pd.DataFrame, seeded: bool, keys: int) -> list[str]:
    """The places of the grid, and the seeds of each, that nobody ran. seeded: the runs of a place differ in the seed.

    keys: how many the table has; the only column of one needs no name.
    """
    runs = placed.groupby(["row", "col", "seed"], observed=False).size()
    found = []
    for where, of_seed in runs.groupby(["row", "col"], observed=False):
        there = ", ".join(where[:keys])
        if not of_seed.any():
            found.append(f"no run: {there}")
        elif seeded and not of_seed.all():
            found.append(f"no run: {there}, seed {', '.join(of_seed[of_seed == 0].index.get_level_values('seed'))}")
    return found[:TOLD] + ([f"no run: {len(found) - TOLD} more places"] if len(found) > TOLD else [])
