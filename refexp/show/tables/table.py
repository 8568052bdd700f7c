"""A table over any two settings. Each cell has mean and deviation over seeds; missing runs are listed."""

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
from refexp.show.words import BY_PROTOCOL, metric_name, percent, short

PROTOCOL = "evaluation.protocol"
"""The setting that names the protocol of a run's numbers."""


class Figures(NamedTuple):
    """A column of published figures. by_row: mean and std. col: the matching column of the table, or None."""

    source: str
    col: str | None
    by_row: pd.DataFrame


@dataclass(frozen=True)
class Table:
    """One metric over the keys `rows` and `cols` (None: a single column, named after the metric).

    name: what distinguishes these runs from those of other tables, or "". title: the metric and what all runs share.
    runs: the frame of `place`. cells: by row and col, in order: mean, std (sample deviation; both fractions), n (number
    of runs), seeds, best (True if no cell is better), why (the reason if there is no mean). published: the frame of
    `find_figures`. notes: warnings about the numbers. troubles: failed, crashed, unstarted or missing runs.
    differences: paired differences between two columns, as sentences.
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
        """The number of runs of the fullest cell. Cells with fewer runs are marked."""
        return int(self.cells["n"].max())

    @property
    def headings(self) -> list[str]:
        """The headings: the keys, then the columns, then the published columns."""
        corner = self.rows if self.cols is None else f"{self.rows} / {self.cols}"
        return [corner, *self.grid("n").columns, *self.foreign]

    def grid(self, what: str) -> pd.DataFrame:
        """One value of the cells as a frame, with one line per row and one column per col."""
        return self.cells[what].unstack("col").rename(index=str, columns=str)

    @cached_property
    def foreign(self) -> dict[str, Figures]:
        """The published figures by heading: one column per source, or several if a source has several per row."""
        found = {}
        for source, figures in [] if self.published is None else self.published.groupby("origin", sort=False):
            single = figures.drop_duplicates(["row", "dataset", "shots"])["row"].is_unique
            for col, part in [(None, figures)] if single else figures.groupby("col", observed=True):
                heading = source if col is None else f"{source}, {self.cols}={col}"
                found[heading] = Figures(source, col, part.drop_duplicates("row").set_index("row"))
        return found

    @cached_property
    def lines(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """The body: the name of each row, and its cells as text with a style: "best", "quiet" (published) or ""."""
        lines = []
        for row, cells in self.cells.groupby("row", observed=False):
            own = [(self.text(cell), "best" if cell.best else "") for cell in cells.itertuples()]
            figures = [figures.by_row.reindex([row]).iloc[0] for figures in self.foreign.values()]
            lines.append((row, own + [(spread(one["mean"], one["std"]), "quiet") for one in figures]))
        return lines

    def text(self, cell: Any) -> str:
        """`36.8 ± 0.4`, with `(n=2)` if the cell has fewer runs than others, or the reason if it has none."""
        return cell.why if not cell.n else spread(cell.mean, cell.std) + ("" if cell.n == self.n else f" (n={cell.n})")

    def turned(self) -> Table:
        """The table with rows and columns exchanged, complete enough for a plot. Needs two keys."""
        assert self.cols
        cells = self.cells.swaplevel().sort_index().rename_axis(["row", "col"])
        published = None if self.published is None else self.published.rename(columns={"row": "col", "col": "row"})
        return replace(self, rows=self.cols, cols=self.rows, cells=cells, published=published)


def spread(mean: float, std: float) -> str:
    """`36.8 ± 0.4`; only the mean if there is no deviation, "" if there is no mean."""
    return "" if pd.isna(mean) else percent(mean) + ("" if pd.isna(std) else f" ± {percent(std)}")


def lay_out(runs: Runs, rows: str, cols: str | None, metric: str) -> Table:
    """The table of these runs for one metric such as `bbox/nAP`, or `bbox/nAP/cat` for a class.

    Raises RefexpError for an unknown key or metric, and if a cell would hold runs that differ in more than the seed.
    `split` makes sets of runs without that problem.
    """
    if metric not in [*runs.metrics, *runs.class_metrics]:
        raise RefexpError(
            f"--metric {metric}: none of these runs has this metric. {did_you_mean(metric, runs.metrics)}"
        )
    keys = [rows] if cols is None else [rows, cols]
    apart = varying(runs, keys)
    if more := [key for key in apart if key != "seed"]:
        raise RefexpError(f"cannot average: runs also differ in {', '.join(more)}; split them first.")
    placed = place(runs, rows, cols, metric_name(metric))
    cells = cells_of(placed, metric)
    troubles = [*failures(placed, metric), *absent(placed, "seed" in apart, len(keys))]
    return Table(
        title_of(placed, metric, cells["n"].max()), metric, rows, cols, placed, cells, notes_of(placed, keys), troubles
    )


def cells_of(placed: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The cells of a table; see `Table`."""
    groups = latest(placed, metric).groupby(["row", "col"], observed=False)
    cells = groups[metric].agg(mean="mean", std="std", n="count")
    cells["seeds"] = groups["seed"].agg(lambda own: " ".join(sorted(own))).where(cells["n"] > 0)
    states = placed.groupby(["row", "col"], observed=False)["state"].first().astype(object)
    cells["why"] = states.replace("completed", "no value").fillna("no run")
    return cells.assign(best=best_of(cells, placed))


def best_of(cells: pd.DataFrame, placed: pd.DataFrame) -> pd.Series:
    """Which cells are the best of their row. Compares only cells with the same seeds and the same data.

    Compares within columns if there is one column, or if the cells of a row are on different data.
    """
    several = cells.index.get_level_values("col").nunique() > 1
    side = "row" if several and same_data(placed, "row") else "col"
    lines = cells.groupby(side, observed=False)
    fair = (lines["mean"].transform("count") > 1) & (lines["seeds"].transform("nunique") == 1)
    return fair & (cells["mean"] == lines["mean"].transform("max")) & same_data(placed, side)


def title_of(placed: pd.DataFrame, metric: str, n: int) -> str:
    """`COCO targets: box nAP in percent, mean ± sample deviation over 3 seeds`."""
    data = placed.loc[placed["state"] == "completed", "targets"].dropna().unique()
    source = f"{short(data[0])}: " if len(data) == 1 else ""
    over = f"mean ± sample deviation over {n} seeds" if n > 1 else "one run per cell"
    return f"{source}{metric_name(with_protocol(metric, placed))} in percent, {over}"


def with_protocol(metric: str, placed: pd.DataFrame) -> str:
    """The metric with the protocol of these runs: `bbox@published/nAP`. Unchanged if it does not depend on it.

    Also unchanged if the completed runs have different protocols: then the table's keys tell them apart.
    """
    done = placed[placed["state"] == "completed"]
    known = done[PROTOCOL].dropna().unique() if PROTOCOL in done else []
    kind = metric.partition("/")[0]
    return metric.replace("/", f"@{known[0]}/", 1) if kind in BY_PROTOCOL and len(known) == 1 else metric


def place(runs: Runs, rows: str, cols: str | None, single: str) -> pd.DataFrame:
    """The frame with `row`, `col` and `seed` as categories, and with `data`: data set, targets and classes.

    single: the name of the only column if cols is None.
    """
    frame = runs.frame
    data = frame.reindex(columns=["dataset", "targets", "class_names"]).fillna("").agg(tuple, axis=1)
    col = runs.values(cols) if cols else pd.Series(single, frame.index, dtype="category")
    return frame.assign(row=runs.values(rows), col=col, seed=runs.values("seed"), data=data)


def latest(placed: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs with a value. If a cell has several runs with the same seed, the one that ended last counts."""
    valued = placed[(placed["state"] == "completed") & placed[metric].notna()]
    return valued.sort_values("ended", kind="stable").drop_duplicates(["row", "col", "seed"], keep="last").sort_index()


def same_data(placed: pd.DataFrame, side: str) -> bool:
    """Whether the completed runs of each row (or each col) use the same data and the same classes."""
    return placed[placed["state"] == "completed"].drop_duplicates([side, "data"])[side].is_unique
