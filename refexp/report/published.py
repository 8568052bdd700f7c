"""Published figures beside one's own, each with its source; they are never mixed with measured ones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import refexp
from refexp.errors import RefexpError
from refexp.report.keys import labels
from refexp.report.layout import Cell, Table, places

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

COLUMNS = ("table", "dataset", "shots", "metric", "mean", "deviation", "source")
DEFAULT = Path(refexp.__file__).parents[1] / "sweeps" / "published.csv"
"""Where a checkout has them; an installed package needs to be told."""


@dataclass(frozen=True)
class Published:
    """One published number, a fraction, with its deviation if that was stated. table: the name it is filed under."""

    table: str
    dataset: str
    shots: str
    metric: str
    mean: float
    deviation: float | None
    source: str

    @property
    def origin(self) -> str:
        """`published, arXiv 2507.02798 (shots)`."""
        return f"published, {self.source} ({self.table})"


def read_figures(path: Path | None = None) -> list[Published]:
    """The figures of a CSV file in percent with the columns `COLUMNS`; by default the checkout's, or none.

    Raises RefexpError if a file that was asked for is missing, or any cannot be read.
    """
    import pandas as pd

    if path is None and not DEFAULT.exists():
        log.info("no published figures beside these: they come with the repository; or give published=FILE.csv")
        return []
    path = path or DEFAULT
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in COLUMNS if name not in rows]:
            raise RefexpError(f"{path} has no column '{missing[0]}'; it needs {', '.join(COLUMNS)}.")
        return [
            Published(
                r.table, r.dataset, r.shots, r.metric, _fraction(r.mean), _fraction(r.deviation) or None, r.source
            )
            for r in rows.itertuples()
        ]
    except OSError:
        raise RefexpError(f"published={path}: no such file; give a CSV with {', '.join(COLUMNS)}.") from None
    except ValueError as error:
        raise RefexpError(f"{path} cannot be read: {error}") from None


def _fraction(percent: str) -> float:
    return float(percent or 0) / 100


def with_published(table: Table, frame: pd.DataFrame, figures: Sequence[Published]) -> Table:
    """The table with a column for each source that has a figure for these data, shots and metric.

    frame: what the table was laid out from. Where a source has several figures for a row, because the table's columns
    are data sets or shots, it gets a column for each of those.
    """
    found: dict[str, dict[str, dict[str, Published]]] = {}
    parts = places(frame, table.rows, table.cols, table.row_labels, table.col_labels)
    for row, col, runs in parts:
        settings = set(labels(runs, ["dataset", "shots"])) if len(runs) else set()
        for figure in figures:
            if settings == {f"{figure.dataset}\x1f{figure.shots}"} and figure.metric == table.metric:
                found.setdefault(figure.origin, {}).setdefault(col, {})[row] = figure
    columns: dict[str, list[Cell]] = {}
    for origin, by_col in found.items():
        merged = {row: figure for per_row in by_col.values() for row, figure in per_row.items()}
        if all(merged[row] == figure for per_row in by_col.values() for row, figure in per_row.items()):
            columns[origin] = _cells(merged, table)
        else:
            columns |= {f"{origin}, {table.cols}={col}": _cells(by_row, table) for col, by_row in by_col.items()}
    return replace(table, published=columns)


def _cells(by_row: dict[str, Published], table: Table) -> list[Cell]:
    found = [by_row.get(row) for row in table.row_labels]
    return [Cell() if figure is None else Cell(figure.mean, figure.deviation) for figure in found]
