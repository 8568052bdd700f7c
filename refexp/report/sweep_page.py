"""report.html of a sweep: its tables and plots, and every run with a link to its own page."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from refexp import __version__
from refexp.files import write_text
from refexp.report.keys import column, completed, label, varying
from refexp.report.layout import Table, metric_name
from refexp.report.plots import draw_metric
from refexp.report.render import cell_text, headings
from refexp.show.page.report import NAME, short, templates

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from refexp.summary import Part, Summary


def write_sweep_report(folder: Path, summary: Summary) -> Path:
    """Write report.html into the folder of a sweep, or of any runs, with the tables of its summary; return its path."""
    frame, apart = summary.frame, varying(summary.frame)
    metrics = list(dict.fromkeys(part.table.metric for part in summary.parts))
    data = sorted({short(str(source)) for source in completed(frame)["targets"].dropna()})
    seconds = frame["seconds"].sum()
    page = {
        "title": f"Sweep: {', '.join(data) or folder.absolute().name}",
        "facts": [
            f"{len(frame)} runs",
            *(f"{count} {state}" for state, count in frame["state"].value_counts().items()),
            *([f"{seconds / 60:.1f} min in all"] if seconds else []),
        ],
        "notes": sorted({note for note in completed(frame)["note"] if note}),
        "kinds": [
            {
                "key": metric,
                "name": metric_name(metric),
                "parts": [shown(part) for part in summary.parts if part.table.metric == metric],
            }
            for metric in metrics
        ],
        "columns": [metric_name(metric) for metric in metrics],
        "settings": apart,
        "runs": [run_of(run, metrics, [column(frame, key) for key in apart], folder) for _, run in frame.iterrows()],
        "version": __version__,
        "data": {},
    }
    write_text(folder / NAME, templates().get_template("sweep.html").render(page))
    return folder / NAME


def shown(part: Part) -> dict[str, Any]:
    """A table, the comparisons that go with it and, where it has any value, its plot."""
    table = part.table
    return {
        "what": part.name, "title": table.title.removeprefix(f"{part.name}: "), "headings": headings(table),
        "lines": lines(table), "notes": table.notes, "troubles": table.troubles,
        "differences": [str(difference) for difference in part.differences],
        "plot": as_svg(draw_metric(part.plotted)) if table.n else None,
    }  # fmt: skip


def lines(table: Table) -> list[dict[str, Any]]:
    """The table's body: names, and cells of text that may be the best or somebody else's."""
    found = []
    for i, name in enumerate(table.row_labels):
        cells = [(cell_text(cell, table.n), cell.best, False) for cell in table.cells[i]]
        cells += [(cell_text(column[i], 0), False, True) for column in table.published.values()]
        found.append({"name": name, "cells": cells})
    return found


def as_svg(figure: Figure) -> Markup:
    """A figure as an SVG element whose texts are text, without what the page says beside it."""
    import matplotlib

    figure.axes[0].set_title("")
    figure.set_size_inches(5.2, 3.4)
    figure.patch.set_alpha(0)
    figure.axes[0].patch.set_alpha(0)
    written = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "refexp", "font.family": "sans-serif"}):
        figure.savefig(written, format="svg", metadata=nothing)
    # Matplotlib escapes the texts; before the element stand an XML declaration and a document type.
    return Markup(written.getvalue()[written.getvalue().index("<svg") :])


def run_of(run: pd.Series, metrics: Sequence[str], settings: Sequence[str], folder: Path) -> dict[str, Any]:
    """One line of the list of runs; the link leads to the run's page, or to its folder where it has none."""
    there = Path(run["folder"])
    page = there / NAME if (there / NAME).exists() and there != folder.absolute() else there
    return {
        "name": str(run["run"]),
        "link": quote(os.path.relpath(page, folder.absolute())) if there.exists() else None,
        "state": run["state"],
        "message": run["message"],
        "overrides": run["overrides"],
        "seconds": None if run["seconds"] != run["seconds"] else run["seconds"],
        "settings": [short(label(run[name])) for name in settings],
        "metrics": [None if run[metric] != run[metric] else run[metric] for metric in metrics],
    }
