"""report.html of a sweep: its tables and plots, and every run with a link to its own page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from refexp import __version__
from refexp.files import write_text
from refexp.show.page.report import NAME, short, templates
from refexp.show.tables.apart import varying
from refexp.show.tables.notes import states, weights
from refexp.show.tables.plots import as_drawn, as_svg, draw_metric
from refexp.show.tables.settings import label
from refexp.show.tables.table import metric_name

if TYPE_CHECKING:
    from refexp.summary import Summary


def write_sweep_report(folder: Path, summary: Summary) -> Path:
    """Write report.html into the folder of a sweep, or of any runs, with the tables of its summary; return its path."""
    frame, apart = summary.runs.frame, varying(summary.runs)
    metrics = list(dict.fromkeys(table.metric for table in summary.tables))
    data = sorted(map(short, frame["targets"].dropna().unique()))
    minutes = frame["seconds"].sum() / 60
    page = {
        "title": f"Sweep: {', '.join(data) or folder.absolute().name}",
        "facts": [f"{len(frame)} runs", *states(frame), *([f"{minutes:.1f} min in all"] if minutes else [])],
        "notes": weights(frame),
        "kinds": [{"key": metric, "name": metric_name(metric)} for metric in metrics],
        "tables": [(table, as_svg(draw_metric(as_drawn(table))) if table.n else None) for table in summary.tables],
        "settings": apart,
        "runs": [run_of(run, metrics, apart, folder.absolute()) for _, run in frame.iterrows()],
        "version": __version__,
        "data": {},
    }
    write_text(folder / NAME, templates().get_template("sweep.html").render(page))
    return folder / NAME


def run_of(run: pd.Series, metrics: Sequence[str], settings: Sequence[str], folder: Path) -> dict[str, Any]:
    """One line of the list of runs; the link leads to the run's page, or to its folder where it has none."""
    there = Path(run["folder"])
    page = there / NAME if (there / NAME).exists() and there != folder else there
    return {
        **run.astype(object).where(run.notna(), None),
        "link": quote(os.path.relpath(page, folder)) if there.exists() else None,
        "settings": [short(label(run[name])) for name in settings],
        "metrics": [None if pd.isna(run[metric]) else run[metric] for metric in metrics],
    }
