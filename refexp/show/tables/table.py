"""A table over any two settings: in each cell mean and deviation over seeds, and what is missing by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from refexp.errors import RefexpError, did_you_mean
from refexp.show.tables.apart import varying
from refexp.show.tables.notes import absent, failures, notes_of
from refexp.show.tables.runs import Runs
from refexp.show.words import KINDS, percent, short


class Figures(NamedTuple):
    """A column of published figures. by_row: mean and std. col: the table's column, if they belong to just one."""

    source: str
    col: str | None
    by_row: pd.DataFrame


@dataclass(frozen=True)
class Table:
    """One metric over the keys `rows` and `cols` (None: a single column, named after the metric).

    name: what sets these runs apart from those of other tables, or "". title: the metric and what all runs share.
    runs: `place`'s frame. cells: by row and col, in order: mean and std, the sample deviation (fractions), n, the
    number of runs, their seeds, best, whether none is better, and why there is no mean. published: `find_figures`'s.
    notes: what must be said of the numbers. troubles: runs that failed, died, never began or are not there.
    differences: those of two columns, in words.
    """

    title: str
    metric: str
    rows: str
    cols: str | None
    runs: pd.DataFrame
    cells: pd.DataFrame
    notes: list[str]
    troubles: list[str]
    name: str = ""
    published: pd.DataFrame | None = None
    differences: Sequence[str] = ()

    @property
    def full_title(self) -> str:
        return f"{self.name}: {self.title}" if self.name else self.title

    @property
    def n(self) -> int:
        """The number of runs of the fullest cell; a cell with fewer says so."""
        return int(self.cells["n"].max())

    @property
    def headings(self) -> list[str]:
        """The keys, the columns, the published columns."""
        corner = self.rows if self.cols is None else f"{self.rows} / {self.cols}"
        return [corner, *self.grid("n").columns, *self.foreign]

    def grid(self, what: str) -> pd.DataFrame:
        """A column of the cells as a frame of a line a row and a column a col."""
        return self.cells[what].unstack("col").rename(index=str, columns=str)

    @cached_property
    def foreign(self) -> dict[str, Figures]:
        """By heading the figures of each source; a column each where it has several for a row."""
        found = {}
        for source, figures in [] if self.published is None else self.published.groupby("origin", sort=False):
            single = figures.drop_duplicates(["row", "dataset", "shots"])["row"].is_unique
            for col, part in [(None, figures)] if single else figures.groupby("col", observed=True):
                heading = source if col is None else f"{source}, {self.cols}={col}"
                found[heading] = Figures(source, col, part.drop_duplicates("row").set_index("row"))
        return found

    @cached_property
    def lines(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The body: the name of each row, and its cells as text and "best", "quiet" (published) or ""."""
        lines = []
        for row, cells in self.cells.groupby("row", observed=False):
            own = [(self.text(cell), "best" if cell.best else "") for cell in cells.itertuples()]
            figures = [figures.by_row.reindex([row]).iloc[0] for figures in self.foreign.values()]
            lines.append((row, own + [(spread(one["mean"], one["std"]), "quiet") for one in figures]))
        return lines

    def text(self, cell: Any) -> str:
        """`36.8 ± 0.4`; with `(n=2)` where the number of runs is not the usual one, and why there is none."""
        return cell.why if not cell.n else spread(cell.mean, cell.std) + ("" if cell.n == self.n else f" (n={cell.n})")

    def turned(self) -> Table:
        """The same with rows and columns exchanged, as far as a plot needs it. It has two keys."""
        assert self.cols
        cells = self.cells.swaplevel().sort_index().rename_axis(["row", "col"])
        published = None if self.published is None else self.published.rename(columns={"row": "col", "col": "row"})
        return replace(self, rows=self.cols, cols=self.rows, cells=cells, published=published)


def spread(mean: float, std: float) -> str:
    """`36.8 ± 0.4`; without a deviation where there is none, "" without a mean."""
    return "" if pd.isna(mean) else percent(mean) + ("" if pd.isna(std) else f" ± {percent(std)}")


def lay_out(runs: Runs, rows: str, cols: str | None, metric: str) -> Table:
    """The table of these runs for one metric such as `bbox/nAP`, or `bbox/nAP/cat` of a class.

    Raises RefexpError for an unknown key or metric, and if a cell would hold runs that differ in more than the seed;
    `split` makes sets of runs for which it does not.
    """
    if metric not in [*runs.metrics, *runs.class_metrics]:
        raise RefexpError(f"metric={metric}: no such metric in these runs. {did_you_mean(metric, runs.metrics)}")
    keys = [rows] if cols is None else [rows, cols]
    apart = varying(runs, keys)
    if more := [key for key in apart if key != "seed"]:
        raise RefexpError(f"runs differ in {', '.join(more)} too, which is no seed to average over: split them first.")
    placed = place(runs, rows, cols, metric_name(metric))
    cells = cells_of(placed, metric)
    troubles = [*failures(placed, metric), *absent(placed, "seed" in apart, len(keys))]
    return Table(
        title_of(placed, metric, cells["n"].max()), metric, rows, cols, placed, cells, notes_of(placed, keys), troubles
    )


def cells_of(placed: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The cells of a table, as `Table` has them."""
    groups = latest(placed, metric).groupby(["row", "col"], observed=False)
    cells = groups[metric].agg(mean="mean", std="std", n="count")
    cells["seeds"] = groups["seed"].agg(lambda own: " ".join(sorted(own))).where(cells["n"] > 0)
    states = placed.groupby(["row", "col"], observed=False)["state"].first().astype(object)
    cells["why"] = states.replace("completed", "no value").fillna("no run")
    return cells.assign(best=best_of(cells, placed))


def best_of(cells: pd.DataFrame, placed: pd.DataFrame) -> pd.Series:
    """Which are the best of their row (of their column, where rows have one cell or other data), of equal seeds."""
    several = cells.index.get_level_values("col").nunique() > 1
    side = "row" if several and same_data(placed, "row") else "col"
    lines = cells.groupby(side, observed=False)
    fair = (lines["mean"].transform("count") > 1) & (lines["seeds"].transform("nunique") == 1)
    return fair & (cells["mean"] == lines["mean"].transform("max")) & same_data(placed, side)


def title_of(placed: pd.DataFrame, metric: str, n: int) -> str:
    """`COCO targets: box nAP in percent, mean ± sample deviation over 3 seeds`."""
    data = placed.loc[placed["state"] == "completed", "targets"].dropna().unique()
    source = f"{short(data[0])}: " if len(data) == 1 else ""
    over = f"mean ± sample deviation over {n} seeds" if n > 1 else "one run each"
    return f"{source}{metric_name(metric)} in percent, {over}"


def place(runs: Runs, rows: str, cols: str | None, single: str) -> pd.DataFrame:
    """The frame with `row`, `col` and `seed` as categories, and `data`, what a run is of and on which classes.

    single: the name of the only column where cols is None.
    """
    frame = runs.frame
    data = frame.reindex(columns=["dataset", "targets", "class_names"]).fillna("").agg(tuple, axis=1)
    col = runs.values(cols) if cols else pd.Series(single, frame.index, dtype="category")
    return frame.assign(row=runs.values(rows), col=col, seed=runs.values("seed"), data=data)


def latest(placed: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs with a value. Runs of the same seed are the same run twice: the one that ended last counts."""
    valued = placed[(placed["state"] == "completed") & placed[metric].notna()]
    return valued.sort_values("ended", kind="stable").drop_duplicates(["row", "col", "seed"], keep="last").sort_index()


def same_data(placed: pd.DataFrame, side: str) -> bool:
    """Whether the completed runs of each row, or each col, are on the same data and the same classes."""
    return placed[placed["state"] == "completed"].drop_duplicates([side, "data"])[side].is_unique


def metric_name(metric: str) -> str:
    """`bbox/nAP50` -> `box nAP50`."""
    kind, _, what = metric.partition("/")
    return f"{KINDS.get(kind, kind)} {what.replace('/', ', ')}"
