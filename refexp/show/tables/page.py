"""report.html of a sweep: its tables and plots, and a list of all runs with links to their pages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from refexp import __version__
from refexp.files import write_text
from refexp.folders.status import read_what_is_there
from refexp.folders.sweep_folder import NAME as SWEEP
from refexp.show.page.report import NAME, about, templates
from refexp.show.tables.apart import varying
from refexp.show.tables.notes import states, weights
from refexp.show.tables.plots import WIDE, as_drawn, axis
from refexp.show.tables.settings import label
from refexp.show.tables.table import Table
from refexp.show.words import metric_name, short

if TYPE_CHECKING:
    from refexp.show.tables.summary import Summary

FILES = "summary/runs.csv", "summary/table.md", "summary/table.tex", "sweep.json"
"""The files of a sweep to which its page links."""


def write_sweep_report(folder: Path, summary: Summary) -> Path:
    """Write report.html with the tables of a summary into the folder of a sweep, or of any runs. Returns its path."""
    frame, apart = summary.runs.frame, varying(summary.runs)
    metrics = list(dict.fromkeys(table.metric for table in summary.tables))
    data = sorted(map(short, frame["targets"].dropna().unique()))
    sweep = read_what_is_there(folder / SWEEP)
    last = (sweep.get("commands") or [sweep])[-1].get("command", [])
    minutes = frame["seconds"].sum() / 60
    page = {
        **about(folder, FILES, ["python", *last[1:]], sweep.get("started", "")),
        "title": f"Sweep {'/'.join(folder.absolute().parts[-2:])}",
        "facts": [*data, f"{len(frame)} runs", *states(frame), *([f"{minutes:.1f} min in all"] if minutes else [])],
        "notes": weights(frame),
        "kinds": [{"key": metric, "name": metric_name(metric)} for metric in metrics],
        "tables": summary.tables,
        "settings": apart,
        "runs": [run_of(run, metrics, apart, folder.absolute()) for _, run in frame.iterrows()],
        "version": __version__,
        "data": {"charts": {table.full_title: chart_of(as_drawn(table)) for table in summary.tables if table.n}},
    }
    write_text(folder / NAME, templates().get_template("sweep.html").render(page))
    return folder / NAME


def chart_of(table: Table) -> dict[str, Any]:
    """Chart data for the page's script: means and deviations over the row key. Published figures are dashed."""
    mean, std = table.grid("mean"), table.grid("std").fillna(0)
    numbers = axis(mean.index)
    at = dict(zip(mean.index, numbers or range(len(mean)), strict=True))
    series: list[list[Any]] = [
        [name, [[at[row], y, std[name][row]] for row, y in column.dropna().items()], "", False]
        for name, column in mean.items()
    ]
    for heading, (_, _, figures) in table.foreign.items():
        points = [[at[row], y["mean"], y["std"]] for row, y in figures[["mean", "std"]].fillna({"std": 0}).iterrows()]
        series.append([heading, points, "", True])
    axes = {
        "x": table.rows, "y": f"{metric_name(table.metric)}, %", "lines": bool(numbers), "fit": True,
        "log": bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) >= WIDE,
        "ticks": [[x, row] for row, x in sorted(at.items(), key=lambda tick: tick[1])],
    }  # fmt: skip
    return {"series": series, "axes": axes}


def run_of(run: pd.Series, metrics: Sequence[str], settings: Sequence[str], folder: Path) -> dict[str, Any]:
    """One row of the list of runs. The link opens the run's page, or its folder if it has no page."""
    there = Path(run["folder"])
    page = there / NAME if (there / NAME).exists() and there != folder else there
    return {
        **run.astype(object).where(run.notna(), None),
        "link": quote(os.path.relpath(page, folder)) if there.exists() else None,
        "settings": [short(label(run[name])) for name in settings],
        "metrics": [None if pd.isna(run[metric]) else run[metric] for metric in metrics],
    }
