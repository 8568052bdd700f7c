"""report.html of a sweep: its tables and plots, and every run with a link to its own page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup

from refexp import __version__
from refexp.files import write_text
from refexp.report.page import NAME, short, templates
from refexp.show.tables.apart import varying
from refexp.show.tables.plots import as_drawn, as_svg, draw_metric
from refexp.show.tables.settings import label
from refexp.show.tables.table import Table, metric_name

if TYPE_CHECKING:
    from refexp.summary import Summary


def write_sweep_report(folder: Path, summary: Summary) -> Path:
    """Write report.html into the folder of a sweep, or of any runs, with the tables of its summary; return its path."""
    frame, done, apart = summary.runs.frame, summary.runs.completed, varying(summary.runs)
    metrics = list(dict.fromkeys(table.metric for table in summary.tables))
    data = sorted(map(short, done["targets"].dropna().unique()))
    seconds = frame["seconds"].sum()
    page = {
        "title": f"Sweep: {', '.join(data) or folder.absolute().name}",
        "facts": [
            f"{len(frame)} runs",
            *(f"{count} {state}" for state, count in frame["state"].value_counts().items()),
            *([f"{seconds / 60:.1f} min in all"] if seconds else []),
        ],
        "notes": sorted(filter(None, done["note"].dropna().unique())),
        "kinds": [{"key": metric, "name": metric_name(metric)} for metric in metrics],
        "tables": [(table, plot(table)) for table in summary.tables],
        "settings": apart,
        "runs": [run_of(run, metrics, apart, folder.absolute()) for _, run in frame.iterrows()],
        "version": __version__,
        "data": {},
    }
    write_text(folder / NAME, templates().get_template("sweep.html").render(page))
    return folder / NAME


def plot(table: Table) -> Markup | None:
    """A table's plot, where it has any value."""
    return as_svg(draw_metric(as_drawn(table))) if table.n else None


def run_of(run: pd.Series, metrics: Sequence[str], settings: Sequence[str], folder: Path) -> dict[str, Any]:
    """One line of the list of runs; the link leads to the run's page, or to its folder where it has none."""
    there = Path(run["folder"])
    page = there / NAME if (there / NAME).exists() and there != folder else there
    return {
        "name": run["run"],
        "link": quote(os.path.relpath(page, folder)) if there.exists() else None,
        "seconds": None if pd.isna(run["seconds"]) else run["seconds"],
        "settings": [short(label(run[name])) for name in settings],
        "metrics": [None if pd.isna(run[metric]) else run[metric] for metric in metrics],
        **run[["state", "message", "overrides"]],
    }
