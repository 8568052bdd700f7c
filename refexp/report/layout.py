"""A table over any two settings: each cell a mean and deviation over seeds, and what is missing by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from refexp.errors import RefexpError, did_you_mean
from refexp.report.keys import (
    CONFIG,
    column,
    completed,
    in_order,
    label,
    labels,
    matters,
    overall_metrics,
    typed,
    varying,
)
from refexp.show.words import KINDS, short

if TYPE_CHECKING:
    import pandas as pd

TOLD = 12
"""Places without a run that are listed; more are counted."""


@dataclass(frozen=True)
class Cell:
    """Runs that differ in nothing but the seed.

    mean, deviation: fractions; the sample deviation (n - 1), None of a single run. n: runs with a value; seeds: theirs.
    best: no cell on the same data in its row is better (in its column, where a row has other data or one cell only).
    missing: seeds that other cells have and this one lacks, whatever the reason. state: why there is no value at all.
    """

    mean: float | None = None
    deviation: float | None = None
    n: int = 0
    seeds: tuple[Any, ...] = ()
    best: bool = False
    missing: tuple[Any, ...] = ()
    state: str = ""


@dataclass(frozen=True)
class Table:
    """rows, cols: the two keys (cols None: a single column). cells: by row, then column, in the order of the values.

    row_values, col_values: of the two keys; the metric's name if cols is None.
    title: the metric and what all runs share. published: by heading, a figure for each row, of n 0.
    notes: what must be said of the numbers. troubles: runs that failed, died, never began or are not there.
    """

    title: str
    metric: str
    rows: str
    cols: str | None
    row_values: list[object]
    col_values: list[object]
    cells: list[list[Cell]]
    published: dict[str, list[Cell]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def row_labels(self) -> list[str]:
        return [label(value) for value in self.row_values]

    @property
    def col_labels(self) -> list[str]:
        return [label(value) for value in self.col_values]

    @property
    def n(self) -> int:
        """The number of runs of the fullest cell; a cell with fewer says so."""
        return max((cell.n for row in self.cells for cell in row), default=0)


def lay_out(frame: pd.DataFrame, rows: str, cols: str | None, metric: str) -> Table:
    """The table of these runs (a frame of `runs.find_runs`) for one metric such as `bbox/nAP`.

    Raises RefexpError for an unknown key or metric, and if a cell would hold runs that differ in more than the seed;
    `split` makes frames for which it does not.
    """
    if metric not in overall_metrics(frame) and not (metric in frame and metric.count("/") > 1):
        known = overall_metrics(frame)
        hint = did_you_mean(metric, known) if known else "None has any: they failed, or were not evaluated."
        raise RefexpError(f"metric={metric}: no such metric in these runs. {hint}")
    keys = [rows] if cols is None else [rows, cols]
    apart = varying(frame, keys)
    if more := [key for key in apart if key != "seed"]:
        raise RefexpError(f"runs differ in {', '.join(more)} too, which is no seed to average over: split them first.")
    row_names = in_order(frame[column(frame, rows)])
    col_names: list[object] = in_order(frame[column(frame, cols)]) if cols else [metric_name(metric)]
    seeds = in_order(frame[column(frame, "seed")]) if "seed" in apart else []
    parts = {(r, c): part for r, c, part in places(frame, rows, cols, row_names, col_names)}
    cells = [[cell_of(parts[r, c], metric, seeds) for c in map(label, col_names)] for r in map(label, row_names)]
    table = Table(
        title="", metric=metric, rows=rows, cols=cols, cells=mark_best(cells, frame, rows, cols),
        row_values=row_names, col_values=col_names,
        notes=list(notes_of(frame, keys)),
        troubles=[*failures(frame, metric), *never_run(frame, parts, cells, cols is None)],
    )  # fmt: skip
    return replace(table, title=title_of(frame, table))


def transposed(table: Table) -> Table:
    """The same with rows and columns exchanged, without the published figures. It needs two keys."""
    assert table.cols
    return replace(
        table, rows=table.cols, cols=table.rows, row_values=table.col_values, col_values=table.row_values,
        cells=[list(column) for column in zip(*table.cells, strict=True)], published={},
    )  # fmt: skip


def split(frame: pd.DataFrame, rows: str, cols: str | None) -> list[tuple[str, pd.DataFrame]]:
    """Frames of runs that differ in rows, cols and seed alone, each with what sets it apart: `dataset=dior`, or ""."""
    keys = [key for key in varying(frame, [rows] if cols is None else [rows, cols]) if key != "seed"]
    if not keys:
        return [("", frame)]
    known = frame.copy()
    evaluated = frame["targets"].notna()
    for key in {"targets", "note"} & set(keys):
        # A run without an end has not said what it is of: it is listed with the first that has.
        known.loc[~evaluated, key] = frame.loc[evaluated, key].iloc[0]
    groups = {tuple(part): frame.loc[index] for part, index in _indices(known, keys)}
    return [
        (
            ", ".join(f"{key}={label(value) or 'none'}" for key, value in zip(keys, values, strict=True)),
            groups[tuple(texts)],
        )
        for values in _ordered(known, keys)
        if (texts := tuple(map(label, values))) in groups
    ]


def _indices(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[list[str], pd.Index]]:
    for text, part in frame.groupby(labels(frame, keys)):
        yield str(text).split("\x1f"), part.index


def _ordered(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    from itertools import product

    return product(*[in_order(frame[column(frame, key)]) for key in keys])


def places(
    frame: pd.DataFrame, rows: str, cols: str | None, row_names: Sequence[object], col_names: Sequence[object]
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The runs of every place of the grid, by the labels of its row and column; empty where there is none."""
    down = frame[column(frame, rows)].map(label)
    across = frame[column(frame, cols)].map(label) if cols else None
    for row in map(label, row_names):
        for col in map(label, col_names):
            here = down == row
            yield row, col, frame[here if across is None else here & (across == col)]


def cell_of(runs: pd.DataFrame, metric: str, seeds: Sequence[object]) -> Cell:
    """Mean and deviation of one place. Runs of the same seed are the same run twice: the later one counts."""
    valued = latest(completed(runs)[lambda frame: frame[metric].notna()])
    own = tuple(valued[column(runs, "seed")])
    lacking = tuple(seed for seed in seeds if label(seed) not in {label(s) for s in own})
    if not len(valued):
        states = list(dict.fromkeys(runs["state"]))
        state = "no run" if not states else "no value" if states == ["completed"] else states[0]
        return Cell(missing=lacking, state=state)
    values = valued[metric].astype(float)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Cell(float(values.mean()), deviation, len(values), own, missing=lacking)


def latest(runs: pd.DataFrame) -> pd.DataFrame:
    """One run a seed, the one that ended last."""
    return runs.sort_values("ended", kind="stable").drop_duplicates(column(runs, "seed"), keep="last").sort_index()


def mark_best(cells: list[list[Cell]], frame: pd.DataFrame, rows: str, cols: str | None) -> list[list[Cell]]:
    """Cells with the best of each row marked, or of each column; never among cells of different data or seeds."""
    if not cells:
        return cells
    if len(cells[0]) > 1 and same_data(frame, rows):
        return [_marked(row) for row in cells]
    if same_data(frame, cols):
        down = [_marked([row[i] for row in cells]) for i in range(len(cells[0]))]
        return [list(row) for row in zip(*down, strict=True)]
    return cells


def same_data(frame: pd.DataFrame, key: str | None) -> bool:
    """Whether all runs of one value of this key (None: all runs) are on the same data, and the same classes."""
    done = completed(frame)
    data = labels(done, ["dataset", "targets", "class_names"])
    groups = [data] if key is None else [part for _, part in data.groupby(done[column(done, key)].map(label))]
    return all(part.nunique() <= 1 for part in groups)


def _marked(line: Sequence[Cell]) -> list[Cell]:
    means = [cell.mean for cell in line if cell.mean is not None]
    fair = len({frozenset(map(label, cell.seeds)) for cell in line if cell.mean is not None}) == 1
    return [replace(cell, best=fair and len(means) > 1 and cell.mean == max(means)) for cell in line]


def title_of(frame: pd.DataFrame, table: Table) -> str:
    """`COCO targets: box nAP in percent, mean ± deviation over 3 seeds`."""
    data = in_order(completed(frame)["targets"].dropna())
    source = f"{short(str(data[0]))}: " if len(data) == 1 else ""
    spread = f", mean ± sample deviation over {table.n} seeds" if table.n > 1 else ", one run each"
    return f"{source}{metric_name(table.metric)} in percent{spread}"


def metric_name(metric: str) -> str:
    """`bbox/nAP50` -> `box nAP50`."""
    kind, _, what = metric.partition("/")
    return f"{KINDS.get(kind, kind)} {what.replace('/', ', ')}"


def notes_of(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[str]:
    """What must be said of the weights, of what else differs, of runs that are there twice and of the code."""
    done = completed(frame)
    for note in in_order(done["note"]):
        if note:
            have, others = done[done["note"] == note], done[done["note"] != note]
            yield f"{_whose(have, others, keys)}{note}"
    counts = in_order(done["class_names"].dropna().map(lambda names: names.count("; ") + 1))
    if done["class_names"].nunique() > 1 and labels(done, ["dataset", "targets"]).nunique() == 1:
        yield f"Not all runs have the same classes ({label(counts[0])} to {label(counts[-1])} of them)."
    for key in filter(matters, typed(done)):
        related = any(key == other or f"{key}.".startswith(f"{other}.") for other in keys)
        if not related and f"{CONFIG}{key}" in done and done[f"{CONFIG}{key}"].map(label).nunique() > 1:
            yield f"{key} differs as well, together with {' or '.join([*keys, 'seed'])}."
    place = labels(done, [*keys, "seed"])
    if again := int(place.duplicated().sum()):
        yield f"{again} of the runs repeat another's settings and seed: the later one counts."
    commits = [str(commit)[:12] for commit in in_order(done["commit"].dropna())]
    if len(commits) > 1:
        yield f"The runs are of different commits: {', '.join(commits)}."


def _whose(have: pd.DataFrame, others: pd.DataFrame, keys: Sequence[str]) -> str:
    """`matcher=shuffled: ` where a key tells these runs from the others, else their names; "" for all runs."""
    if not len(others):
        return ""
    for key in keys:
        mine, theirs = (set(part[column(part, key)].map(label)) for part in (have, others))
        if not mine & theirs:
            return f"{key}={','.join(sorted(mine))}: "
    return f"{', '.join(have['run'])}: "


def failures(frame: pd.DataFrame, metric: str | None = None) -> list[str]:
    """The runs that are not completed, or have no value of this metric: a line for each thing that is wrong."""
    parts_of = {run.Index: set(run.overrides.split()) for run in frame.itertuples()}
    common = set.intersection(*parts_of.values()) if len(parts_of) > 1 else set()
    one_sweep = frame["sweep"].nunique() == 1 and frame["sweep"].iloc[0] != ""
    names = ("#" + frame["job"].astype(str)) if one_sweep else frame["run"]
    lacking = frame["state"] != "completed"
    found = []
    if metric:
        lacking |= frame[metric].isna()
    for (state, message), group in frame[lacking].groupby(["state", "message"], sort=False):
        shared = set.intersection(*(parts_of[index] for index in group.index)) - common
        what = " ".join(part for part in group["overrides"].iloc[0].split() if part in shared)
        named = f"{', '.join(names[group.index])} {f'without {metric}' if state == 'completed' else state}"
        found.append(f"{named}{f' ({what})' if what else ''}{f': {message}' if message else ''}")
    return found


def never_run(
    frame: pd.DataFrame, parts: dict[tuple[str, str], pd.DataFrame], cells: list[list[Cell]], single: bool
) -> list[str]:
    """The places of the grid, and the seeds of each, that nobody ran. single: the table has one column only."""
    found = []
    for (row, col), cell in zip(parts, (cell for line in cells for cell in line), strict=True):
        where = row if single else f"{row}, {col}"
        ran = set(parts[row, col][column(frame, "seed")].map(label))
        absent = [label(seed) for seed in cell.missing if label(seed) not in ran]
        if not len(parts[row, col]):
            found.append(f"no run: {where}")
        elif absent:
            found.append(f"no run: {where}, seed {', '.join(absent)}")
    return found[:TOLD] + ([f"no run: {len(found) - TOLD} more places"] if len(found) > TOLD else [])
