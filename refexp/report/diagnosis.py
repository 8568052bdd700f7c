"""The diagnosis of a run as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from refexp.evaluation.verdict import NOUNS
from refexp.report.page_errors import NAMES
from refexp.report.words import BOUNDS, percent


def print_diagnosis(diagnostics: Mapping[str, Any]) -> None:
    """The run beside its upper bounds, what each kind of error costs, and the verdict.

    diagnostics: the content of diagnostics.json. What must be said of the weights is said with the metrics.
    """
    console = Console(soft_wrap=True)
    for kind, of in diagnostics["kinds"].items():
        bounds = Table(title=f"what holds the {NOUNS[kind]} back", title_justify="left")
        for column in ("", "nAP", "nAP50"):
            bounds.add_column(column, justify="right" if column else "left")
        bounds.add_row("this run", percent(of["nAP"]), percent(of["nAP50"]), style="bold")
        for name, bound in of["bounds"].items():
            bounds.add_row(BOUNDS[name], percent(bound["nAP"]), percent(bound["nAP50"]))
        errors = Table()
        for column in ("error", "count", "nAP50 without"):
            errors.add_column(column, justify="left" if column == "error" else "right")
        for name, cost in of["errors"]["dAP50"].items():
            errors.add_row(NAMES[name], str(of["errors"]["count"][name]), "-" if cost is None else f"+{100 * cost:.1f}")
        console.print(bounds)
        console.print(errors)
        console.print(of["verdict"]["text"])
