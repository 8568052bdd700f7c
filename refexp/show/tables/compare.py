"""Compare two variants over the same seeds: the mean paired difference and its bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refexp.show.tables.table import Table, latest
from refexp.show.words import percent

RESAMPLES = 10_000
AT_ONCE = 10_000_000
"""Numbers that are drawn together, which limits memory."""
LEVEL = 0.95
FEW = 6
"""With fewer pairs, a bootstrap interval is known to be too narrow."""


@dataclass(frozen=True)
class Difference:
    """`second` minus `first` at one value of the rows' key, as fractions.

    where: for example `shots=5`. seeds: the seeds that both have. low, high: bootstrap interval of the mean; None for
    a single pair.
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
        few = "; with so few, the interval is too narrow" if len(self.seeds) < FEW else ""
        interval = f"{percent(self.low)} to {percent(self.high)}"
        return f"{text}, {LEVEL:.0%} interval {interval} ({len(self.seeds)} seeds{few})"


def bootstrap(differences: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of at least two paired differences."""
    values = np.asarray(differences, dtype=float)
    random, rows = np.random.default_rng(0), max(1, AT_ONCE // len(values))
    sizes = [min(rows, RESAMPLES - done) for done in range(0, RESAMPLES, rows)]
    means = np.concatenate([random.choice(values, (size, len(values))).mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def compare(table: Table, first: str, second: str) -> list[Difference]:
    """Pair the runs of two columns by seed within each row. Rows without a pair have no entry."""
    runs = latest(table.runs, table.metric).set_index(["row", "seed"])
    one, other = (runs.loc[runs["col"] == col, table.metric] for col in (first, second))
    found = []
    for row, paired in (other - one).dropna().groupby("row", observed=True):
        low, high = bootstrap(paired) if len(paired) > 1 else (None, None)
        seeds = tuple(paired.index.get_level_values("seed"))
        found.append(Difference(f"{table.rows}={row}", first, second, float(paired.mean()), low, high, seeds))
    return found
