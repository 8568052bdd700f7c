"""Pictures of a metric over the runs of a sweep, for a paper or a page; nothing of pyplot's is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refexp.files import atomic_path
from refexp.report.keys import make_axis
from refexp.report.layout import Cell, Table, metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#7F7F7F")
"""After Okabe and Ito: told apart by colour-blind readers too; markers and hatches tell them apart in print."""
MARKERS = "osD^vP*X"
HATCHES = ("", "//", "..", "\\\\", "xx", "++", "oo", "--")
GREY = "#555555"
DASHES = ("--", ":", "-.")
WIDE = 3.0
"""Numbers whose largest is so many times the smallest stand on a logarithmic axis."""


def draw_metric(table: Table) -> Figure:
    """A table's metric against the key of its rows, mean and deviation over seeds, one line for each column.

    Numbers give lines with a band, anything else (and a single number) bars. Published figures are drawn dashed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    if make_axis(table.row_values):
        draw_lines(axes, table, [float(str(value)) for value in table.row_values])
    else:
        draw_bars(axes, table)
    axes.set_xlabel(table.rows)
    axes.set_ylabel(f"{metric_name(table.metric)} [%]")
    axes.set_ylim(bottom=0)
    axes.set_title(table.title, fontsize=9, wrap=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if len(table.col_labels) > 1 or table.published:
        keyed = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        names = sorted(keyed, key=lambda name: name not in table.col_labels)  # measured first
        figure.legend(
            [keyed[name] for name in names], names, title=table.cols, loc="outside lower center", fontsize=8,
            title_fontsize=8, ncols=2 if table.published else min(4, len(names)), frameon=False,
        )  # fmt: skip
    if table.notes:
        figure.suptitle("\n".join(table.notes), fontsize=7, color="#B00020", wrap=True)
    return figure


def draw_lines(axes: Axes, table: Table, values: Sequence[float]) -> None:
    """A line and a band of one deviation for each column; points that are missing leave a gap to their neighbours."""
    for i, name in enumerate(table.col_labels):
        points = [(x, row[i]) for x, row in zip(values, table.cells, strict=True) if row[i].mean is not None]
        if points:
            _band(axes, points, _colour(i), MARKERS[i % len(MARKERS)], name)
    for i, source, column_index, cells in published_in(table):
        points = [(x, cell) for x, cell in zip(values, cells, strict=True) if cell.mean is not None]
        x, y = [x for x, _ in points], [_percent(cell) for _, cell in points]
        spread = [100 * (cell.deviation or 0) for _, cell in points]
        style: dict[str, Any] = {"linestyle": DASHES[i % 3], "marker": MARKERS[i % len(MARKERS)]}
        style |= {"color": _colour(column_index), "markerfacecolor": "white", "label": source}
        axes.errorbar(x, y, spread, linewidth=1, capsize=2, **style)
    if min(values) > 0 and max(values) / min(values) >= WIDE:
        axes.set_xscale("log")
    axes.set_xticks(values, table.row_labels)
    axes.set_xticks([], minor=True)


def _band(axes: Axes, points: Sequence[tuple[float, Cell]], colour: str, marker: str, name: str) -> None:
    x, y = [x for x, _ in points], [_percent(cell) for _, cell in points]
    spread = [100 * (cell.deviation or 0) for _, cell in points]
    axes.plot(x, y, color=colour, marker=marker, label=name)
    low, high = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def draw_bars(axes: Axes, table: Table) -> None:
    """Bars side by side for the columns, an error bar of one deviation on each; published figures as dashes across."""
    places = range(len(table.row_labels))
    width = 0.8 / len(table.col_labels)
    for i, name in enumerate(table.col_labels):
        cells = [row[i] for row in table.cells]
        x = [place + (i + 0.5) * width - 0.4 for place in places]
        spread = [100 * (cell.deviation or 0) for cell in cells]
        style: dict[str, Any] = {
            "color": COLOURS[i % len(COLOURS)],
            "hatch": HATCHES[i % len(HATCHES)],
            "edgecolor": "white",
        }
        axes.bar(x, [_percent(cell) for cell in cells], width, label=name, **style)
        deviating = [(a, _percent(cell), b) for a, cell, b in zip(x, cells, spread, strict=True) if b]
        if deviating:
            at, heights, errors = zip(*deviating, strict=True)
            axes.errorbar(at, heights, errors, fmt="none", ecolor="black", capsize=3, linewidth=1)
        for a, cell in zip(x, cells, strict=True):
            if cell.mean is None:
                axes.annotate(cell.state, (a, 1), rotation=90, ha="center", va="bottom", fontsize=7, color=GREY)
    for i, source, column_index, cells in published_in(table):
        left, right = (0.0, 0.8) if column_index is None else (column_index * width, (column_index + 1) * width)
        for place, cell in zip(places, cells, strict=True):
            if cell.mean is not None:
                start, end = place - 0.4 + left, place - 0.4 + right
                axes.hlines(_percent(cell), start, end, color="black", linestyle=DASHES[i % 3], label=source or "")
                source = None  # once in the legend is enough
    axes.set_xticks(list(places), table.row_labels)
    axes.set_xlim(-0.6, max(places) + 0.6)


def published_in(table: Table) -> Iterator[tuple[int, str | None, int | None, list[Cell]]]:
    """Published figures: the source's number, its name (once), and their column's index if they belong to just one."""
    sources: list[str] = []
    for heading, cells in table.published.items():
        ends = [f", {table.cols}={name}" for name in table.col_labels]
        own = next((i for i, end in enumerate(ends) if heading.endswith(end)), None)
        source = heading if own is None else heading.removesuffix(ends[own])
        new = source not in sources
        sources += [source] if new else []
        yield sources.index(source), source if new else None, own, cells


def _colour(index: int | None) -> str:
    return GREY if index is None else COLOURS[index % len(COLOURS)]


def _percent(cell: Cell) -> float:
    return 100 * (cell.mean or 0.0)


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write `path`.png and `path`.svg atomically; the same runs give the same bytes."""
    import matplotlib

    written = []
    endings: dict[str, dict[str, Any]] = {".png": {"dpi": 160}, ".svg": {"metadata": {"Date": None}}}
    for ending, settings in endings.items():
        target = path.with_name(path.name + ending)
        with atomic_path(target) as temporary, matplotlib.rc_context({"svg.hashsalt": "refexp"}):
            figure.savefig(temporary, **settings)
        written.append(target)
    return written
