"""Published figures next to your own, each with its source. They are never mixed with measured ones."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd

import refexp
from refexp.errors import RefexpError
from refexp.show.tables.settings import PROTOCOLS

log = logging.getLogger(__name__)

COLUMNS = ["table", "dataset", "shots", "metric", "mean", "deviation", "source"]
DEFAULT = Path(refexp.__file__).parents[1] / "sweeps" / "published.csv"
"""The file in a checkout. An installed package has none and needs --published."""


def read_figures(path: Path | None = None) -> pd.DataFrame:
    """Read published figures from a CSV file with the columns `COLUMNS`, in percent. Default: the checkout's, or none.

    Returns dataset, shots, metric, mean, std (the deviation), both as fractions and missing if not stated, and
    `origin`: `published, arXiv 2507.02798 (shots)`.
    Raises RefexpError if the given file is missing, or if a file cannot be read.
    """
    if path is None and not DEFAULT.exists():
        log.info("published figures: none; they come with the repository. Or pass --published FILE.csv")
        return as_figures(pd.DataFrame(columns=COLUMNS, dtype=str))
    path = path or DEFAULT
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in COLUMNS if name not in rows]:
            raise RefexpError(f"{path} has no column '{missing[0]}'; it needs {', '.join(COLUMNS)}.")
        return as_figures(rows)
    except OSError:
        raise RefexpError(f"--published {path}: no such file; give a CSV with {', '.join(COLUMNS)}.") from None
    except ValueError as error:
        raise RefexpError(f"{path} cannot be read: {error}") from None


def as_figures(rows: pd.DataFrame) -> pd.DataFrame:
    """Convert rows of text in percent to the frame that `read_figures` returns."""
    mean, std = (pd.to_numeric(rows[name]) / 100 for name in ("mean", "deviation"))
    return rows.assign(mean=mean, std=std, origin="published, " + rows["source"] + " (" + rows["table"] + ")")


def find_figures(placed: pd.DataFrame, metric: str, figures: pd.DataFrame) -> pd.DataFrame:
    """The figures for the cells of a table (`table.place`) whose runs share one data set and one number of shots.

    Figures stand only beside runs by the published protocol, in their references and in their evaluation.
    Returns one line per figure, with the `row` and `col` of its cell.
    """
    # A cell with several data sets, numbers of shots or protocols matches no published figure.
    settings = placed.reindex(
        columns=["row", "col", "dataset", "shots", "sampler", "sampler.protocol", *PROTOCOLS]
    ).drop_duplicates()
    single = settings[~settings.duplicated(["row", "col"], keep=False)].sort_values(["row", "col"])
    single = single[(single[PROTOCOLS] == "published").all(axis=1)]
    single = single[(single["sampler"] != "file") | (single["sampler.protocol"] == "published")]
    found = single.merge(figures[figures["metric"] == metric], on=["dataset", "shots"])
    return found.drop_duplicates(["row", "col", "origin"], keep="last")
