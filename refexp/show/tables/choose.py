"""Choose the tables: keys, metrics and pairs come from the options, or else from the runs themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations
from pathlib import Path

import pandas as pd

from refexp.data.protocols import Protocol, as_other
from refexp.errors import RefexpError, did_you_mean
from refexp.files import as_file_name
from refexp.folders.record import PARTIAL
from refexp.show.tables.apart import split, varying
from refexp.show.tables.compare import compare
from refexp.show.tables.published import find_figures
from refexp.show.tables.runs import Runs
from refexp.show.tables.table import PROTOCOL, Table, lay_out, same_data

HEADLINES = ("segm/nAP", "bbox/nAP", "semantic/mIoU", "semantic/FB-IoU")
"""The default metrics, if the runs have them."""


@dataclass(frozen=True)
class Wanted:
    """The options of a summary. None: chosen from the runs.

    rows, cols: settings as you type them on the command line. metric: names in metrics.json, separated by commas. Each
    gets a table and a plot. compare: two values of cols, separated by a comma; not needed if cols has exactly two.
    published: a CSV of published figures; None takes sweeps/published.csv of the checkout. out: folder for runs.csv,
    table.md, table.tex and the plots; None takes summary/ in the common parent folder of all runs, and in it for other
    than the default tables a folder of their own.
    """

    rows: str | None = None
    cols: str | None = None
    metric: str | None = None
    compare: str | None = None
    published: Path | None = None
    out: Path | None = None

    def layout(self, folders: Sequence[Path]) -> str:
        """The name of these tables among other tables of the same runs; "" for the default ones of one folder."""
        several = ["+".join(sorted(folder.absolute().name for folder in folders))] if len(folders) > 1 else []
        options = {"rows": self.rows, "cols": self.cols, "metric": self.metric, "compare": self.compare}
        options |= {"published": self.published.stem if self.published else None}
        given = [f"{name}={value}" for name, value in options.items() if value]
        return as_file_name(re.sub(r"[^\w.=,+-]+", "_", "_".join(several + given)))


def make_tables(runs: Runs, wanted: Wanted, figures: pd.DataFrame) -> list[Table]:
    """Make one table for each metric and each set of runs that can be averaged over seeds; [] without any metric.

    Partial runs (input.limit) get tables of their own, named so.
    figures: published figures (`published.read_figures`). Raises RefexpError for an unknown key, metric or pair.
    """
    if not runs.metrics:
        return []
    partial = runs.frame["note"].str.startswith(PARTIAL, na=False)
    if partial.any() and not partial.all():
        trials = make_tables(runs.only(partial), wanted, figures)
        trials = [replace(table, name=", ".join(filter(None, [PARTIAL, table.name]))) for table in trials]
        return make_tables(runs.only(~partial), wanted, figures) + trials
    rows, cols = choose_keys(runs, wanted)
    pair = choose_pair(runs, cols, wanted.compare)
    tables = []
    for name, part in split(runs, [rows] if cols is None else [rows, cols]):
        measured = part.frame[runs.metrics].notna().any()
        for metric in wanted.metric.split(",") if wanted.metric else shown_metrics(runs, figures):
            if not wanted.metric and not measured[metric] and measured.any():
                continue  # these runs were evaluated, but not with this metric
            table = lay_out(part, rows, cols, metric)
            # Runs on different classes or images are compared only if --compare asks for it.
            fair = wanted.compare is not None or same_data(table.runs, "row")
            differences = list(map(str, compare(table, *pair))) if pair and fair else []
            found = find_figures(table.runs, metric, figures)
            tables.append(replace(table, name=name, published=found, differences=differences))
    return tables


def choose_keys(runs: Runs, wanted: Wanted) -> tuple[str, str | None]:
    """Choose rows and cols: the given keys, or else shots against the next key that differs.

    Each data set gets its own table.
    """
    given = [key for key in (wanted.rows, wanted.cols) if key]
    for key in given:
        runs.values(key)
    if wanted.rows and wanted.rows == wanted.cols:
        raise RefexpError(f"--rows {wanted.rows} --cols {wanted.cols}: give two different keys.")
    free = [key for key in varying(runs, given) if key not in ("seed", "targets", "note")]
    free.sort(key=lambda key: (key != "shots", key == "dataset"))
    rows = wanted.rows or (free.pop(0) if free else "shots" if wanted.cols != "shots" else "dataset")
    return rows, wanted.cols or (free[0] if free else None)


def shown_metrics(runs: Runs, figures: pd.DataFrame) -> list[str]:
    """The default metrics that these runs have, and the metrics with a published figure for these data sets.

    Each is followed by the same metric of the other protocol, if the runs have it and the same protocol leads in all.
    """
    known = figures.loc[figures["dataset"].isin(runs.frame.get("dataset", [])), "metric"]
    one_leads = runs.frame.get(PROTOCOL, pd.Series(dtype=str)).nunique() == 1
    others: tuple[Protocol, ...] = ("published", "standard") if one_leads else ()
    names = ([m, *(name for other in others for name in as_other({m: None}, other))] for m in [*HEADLINES, *known])
    return [m for m in dict.fromkeys(chain.from_iterable(names)) if m in runs.metrics] or runs.metrics[:1]


def choose_pair(runs: Runs, cols: str | None, wanted: str | None) -> tuple[str, str] | None:
    """The two values of cols to compare: the given ones, or else the only two. By default never two data sets."""
    names = list(runs.values(cols).cat.categories) if cols else []
    if wanted is None:
        return (names[0], names[1]) if len(names) == 2 and cols not in ("seed", "dataset") else None
    for one, other in permutations(names, 2):  # a value may contain commas
        if wanted in (f"{one},{other}", f"{one}, {other}"):
            return one, other
    parts = [part.strip() for part in wanted.split(",")]
    unknown = [part for part in parts if part not in names]
    if not cols or len(parts) != 2 or not unknown:
        raise RefexpError(f"--compare {wanted}: give two values of the columns, such as --cols matcher --compare a,b.")
    raise RefexpError(f"--compare {wanted}: no run has {cols}={unknown[0]}. {did_you_mean(unknown[0], names)}")
