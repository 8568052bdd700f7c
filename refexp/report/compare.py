"""Two variants over the same seeds: the mean of the differences, and how far it can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refexp.report.keys import column, completed, in_order, label
from refexp.report.layout import latest
from refexp.show.words import percent

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000
LEVEL = 0.95
FEW = 6
"""Below so many pairs a bootstrap interval is known to be too narrow."""


@dataclass(frozen=True)
class Difference:
    """`second` minus `first` at one value of the rows' key, as fractions.

    where: `shots=5`. seeds: those that both have. low, high: bootstrap interval of the mean, None of a single pair.
    """

    where: str
    first: str
    second: str
    mean: float
    low: float | None
    high: float | None
    seeds: tuple[str, ...]

    def __str__(self) -> str:
        sign = "+" if round(100 * self.mean, 1) > 0 else ""
        text = f"{self.where}: {self.second} against {self.first}, {sign}{percent(self.mean)} points"
        if self.low is None or self.high is None:
            return f"{text} (1 seed: no interval)"
        few = ", so few that it is too narrow" if len(self.seeds) < FEW else ""
        interval = f"{percent(self.low)} to {percent(self.high)}"
        return f"{text}, {LEVEL:.0%} interval {interval} ({len(self.seeds)} seeds{few})"


def bootstrap(differences: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of at least two paired differences."""
    values = np.asarray(differences, dtype=float)
    drawn = np.random.default_rng(0).choice(values, (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def compare(frame: pd.DataFrame, rows: str, key: str, first: str, second: str, metric: str) -> list[Difference]:
    """Pair the runs of two values of `key` by seed, for each value of `rows` by itself; one entry where any pair is.

    frame: runs that differ in rows, key and seed only (`layout.split`).
    """
    done = completed(frame)[lambda runs: runs[metric].notna()]
    across, down = done[column(done, key)].map(label), done[column(done, rows)].map(label)
    found = []
    for row in map(label, in_order(done[column(done, rows)])):
        one, other = (by_seed(done[(down == row) & (across == name)], metric) for name in (first, second))
        seeds = tuple(seed for seed in one if seed in other)
        if seeds:
            differences = [other[seed] - one[seed] for seed in seeds]
            low, high = bootstrap(differences) if len(seeds) > 1 else (None, None)
            found.append(Difference(f"{rows}={row}", first, second, float(np.mean(differences)), low, high, seeds))
    return found


def by_seed(runs: pd.DataFrame, metric: str) -> dict[str, float]:
    """Each seed's value."""
    own = latest(runs)
    return {label(seed): float(value) for seed, value in zip(own[column(own, "seed")], own[metric], strict=True)}
