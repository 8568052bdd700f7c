"""Plots of a metric over the runs of a sweep, for a paper or a page. Does not use pyplot's global state."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from refexp.files import atomic_path
from refexp.show.tables.settings import as_number
from refexp.show.tables.table import Table
from refexp.show.words import metric_name

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
"""After Okabe and Ito: safe for color-blind readers. Markers and hatches distinguish the series in gray print."""
MARKERS = "osD^vP*X"
HATCHES = ("", "//", "..", "\\\\", "xx", "++", "oo", "--")
GREY = "#555555"
DASHES = ("--", ":", "-.")
WIDE = 3.0
"""The axis is logarithmic if the largest number is at least this many times the smallest."""


def as_drawn(table: Table) -> Table:
    """The table as it is plotted: transposed if only its columns are numeric, so that the x axis has numbers."""
    n = table.grid("n")
    return table.turned() if table.cols and axis(n.columns) and not axis(n.index) else table


def axis(labels: pd.Index) -> list[float]:
    """These labels as numbers, if there are several and all are numbers; else []."""
    numbers = [number for number in map(as_number, labels) if number is not None]
    return numbers if 1 < len(numbers) == len(labels) else []


def draw_metric(table: Table) -> Figure:
    """Plot a table's metric over its row key: mean and deviation over seeds, one series for each column.

    Numeric rows give lines with a band. Other rows, or a single number, give bars. Published figures are dashed.
    """
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    mean, foreign = table.grid("mean"), table.foreign
    draw = draw_lines if axis(mean.index) else draw_bars
    draw(axes, table, 100 * mean, 100 * table.grid("std").fillna(0))
    axes.set(xlabel=table.rows, ylabel=f"{metric_name(table.metric)} [%]", ylim=(0, None))
    axes.set_title(table.full_title, fontsize=9, wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(mean.columns) > 1 or foreign:
        handles, labels = axes.get_legend_handles_labels()
        # One legend entry per source: its first column.
        keyed = dict(zip(reversed(labels), reversed(handles), strict=True))
        names = sorted(dict.fromkeys(labels), key=lambda name: name not in mean)  # measured first
        figure.legend(
            [keyed[name] for name in names], names, title=table.cols, loc="outside lower center", fontsize=8,
            title_fontsize=8, ncols=2 if foreign else min(4, len(names)), frameon=False,
        )  # fmt: skip
    if table.notes:
        figure.suptitle("\n".join(table.notes), fontsize=7, color="#B00020", wrap=True)
    return figure


def draw_lines(axes: Axes, table: Table, mean: pd.DataFrame, std: pd.DataFrame) -> None:
    """Draw a line and a band of one deviation for each column. The line connects across missing points."""
    at = pd.Series(axis(mean.index), mean.index)
    for (name, y), color, marker in zip(mean.items(), cycle(COLORS), cycle(MARKERS)):
        y = y.dropna()
        if len(y):
            axes.plot(at[y.index], y, color=color, marker=marker, label=name)
            low, high = y - std[name][y.index], y + std[name][y.index]
            axes.fill_between(at[y.index], low, high, color=color, alpha=0.18, linewidth=0)
    for i, label, column, y in published_in(table):
        color = GREY if column is None else COLORS[column % len(COLORS)]
        axes.errorbar(
            at[y.index], y["mean"], y["std"], label=label, linewidth=1, capsize=2, markerfacecolor="white",
            linestyle=DASHES[i % len(DASHES)], marker=MARKERS[i % len(MARKERS)], color=color,
        )  # fmt: skip
    if at.min() > 0 and at.max() / at.min() >= WIDE:
        axes.set_xscale("log")
    axes.set_xticks(at, at.index)
    axes.set_xticks([], minor=True)


def draw_bars(axes: Axes, table: Table, mean: pd.DataFrame, std: pd.DataFrame) -> None:
    """Draw grouped bars with error bars of one deviation. Published figures are horizontal dashed lines."""
    start, width = pd.Series(range(len(mean)), mean.index) - 0.4, 0.8 / len(mean.columns)
    for i, (name, color, hatch) in enumerate(zip(mean, cycle(COLORS), cycle(HATCHES))):
        x, y, error, why = start + (i + 0.5) * width, mean[name], std[name], table.grid("why")[name]
        axes.bar(x, y.fillna(0), width, label=name, color=color, hatch=hatch, edgecolor="white")
        some = error > 0
        axes.errorbar(x[some], y[some], error[some], fmt="none", ecolor="black", capsize=3, linewidth=1)
        for row in mean.index[y.isna()]:
            axes.annotate(why[row], (x[row], 1), rotation=90, ha="center", va="bottom", fontsize=7, color=GREY)
    for i, label, column, y in published_in(table):
        left = start[y.index] + (column or 0) * width
        right = left + (0.8 if column is None else width)
        axes.hlines(y["mean"], left, right, color="black", linestyle=DASHES[i % len(DASHES)], label=label)
    axes.set_xticks(start + 0.4, mean.index)
    axes.set_xlim(-0.6, len(mean) - 0.4)


def published_in(table: Table) -> Iterator[tuple[int, str, int | None, pd.DataFrame]]:
    """Yield each column of published figures: source number, source name, column index, and mean and std in percent.

    The column index is None if the figures do not belong to one column. Mean and std are a frame with one line per row.
    """
    columns = list(table.grid("n"))
    sources = list(dict.fromkeys(figures.source for figures in table.foreign.values()))
    for source, col, figures in table.foreign.values():
        percents = 100 * figures[["mean", "std"]].fillna({"std": 0})
        yield sources.index(source), source, None if col is None else columns.index(col), percents


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg atomically. The same runs give the same bytes."""
    png, svg = (path.with_name(path.name + ending) for ending in (".png", ".svg"))
    with atomic_path(png) as temporary:
        figure.savefig(temporary, dpi=160)
    with atomic_path(svg) as temporary, matplotlib.rc_context({"svg.hashsalt": "refexp"}):
        figure.savefig(temporary, metadata={"Date": None})
    return [png, svg]
