"""Published figures beside one's own, each with its source; they are never mixed with measured ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

import refexp
from refexp.errors import RefexpError

log = logging.getLogger(__name__)

COLUMNS = ["table", "dataset", "shots", "metric", "mean", "deviation", "source"]
DEFAULT = Path(refexp.__file__).parents[1] / "sweeps" / "published.csv"
"""Where a checkout has them; an installed package needs to be told."""


def read_figures(path: Path | None = None) -> pd.DataFrame:
    """The figures of a CSV file in percent with the columns `COLUMNS`; by default the checkout's, or none.

    Returns dataset, shots, metric, mean and std, the deviation (fractions; missing if not stated), and `origin`:
    `published, arXiv 2507.02798 (shots)`.
    Raises RefexpError if a file that was asked for is missing, or any cannot be read.
    """
    if path is None and not DEFAULT.exists():
        log.info("no published figures beside these: they come with the repository; or give published=FILE.csv")
        return as_figures(pd.DataFrame(columns=COLUMNS, dtype=str))
    path = path or DEFAULT
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in COLUMNS if name not in rows]:
            raise RefexpError(f"{path} has no column '{missing[0]}'; it needs {', '.join(COLUMNS)}.")
        return as_figures(rows)
    except OSError:
        raise RefexpError(f"published={path}: no such file; give a CSV with {', '.join(COLUMNS)}.") from None
    except ValueError as error:
        raise RefexpError(f"{path} cannot be read: {error}") from None


def as_figures(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of text in percent as `read_figures` returns them."""
    mean, std = (pd.to_numeric(rows[name]) / 100 for name in ("mean", "deviation"))
    return rows.assign(mean=mean, std=std, origin="published, " + rows["source"] + " (" + rows["table"] + ")")


def find_figures(placed: pd.DataFrame, metric: str, figures: pd.DataFrame) -> pd.DataFrame:
    """The figures for the places of a table (`table.place`) whose runs are all of one data set and number of shots.

    Returns the figures with the `row` and `col` that each stands beside, a line each.
    """
    settings = placed.reindex(columns=["row", "col", "dataset", "shots"]).drop_duplicates()
    single = settings[~settings.duplicated(["row", "col"], keep=False)].sort_values(["row", "col"])
    found = single.merge(figures[figures["metric"] == metric], on=["dataset", "shots"])
    return found.drop_duplicates(["row", "col", "origin"], keep="last")
