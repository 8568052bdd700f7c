"""Dashboards as code: a W&B report built from a YAML file.

    python -m refexp.dashboard sweeps/dashboards/ablation.yaml --project refexp --group SWEEP

The report is built and serialised by W&B's own library (wandb-workspaces 0.4). It has no heat map, no bars over two
keys and no band over runs that differ in their configuration, so these are custom charts: Vega-Lite specifications
beside the YAML, which W&B draws over the tables that `logger=wandb` leaves. Registering these charts and saving the
report need the service, and were never tried against it; the tests serialise the report without it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from refexp.errors import RefexpError, first_line

COLUMNS = 24
"""Of a report's grid of panels."""


class Part(BaseModel):
    """What all parts of a definition share: a misspelt key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class Panel(Part):
    """A panel of a section. width: of the grid's 24 columns; height: in its units."""

    title: str = ""
    width: Annotated[int, Field(ge=1, le=COLUMNS)] = 12
    height: Annotated[int, Field(ge=1)] = 10


class ChartPanel(Panel):
    """A Vega-Lite specification, a file beside the YAML, over a table of each run. fields: ${field:...} to columns."""

    kind: Literal["chart"]
    spec: str
    table: str
    fields: dict[str, str]


class ScatterPanel(Panel):
    """A point a run. x: a key of the configuration; y: a number of the summary."""

    kind: Literal["scatter"]
    x: str
    y: str


class BarsPanel(Panel):
    """A bar for each value of the key `by` of the configuration: mean and deviation of y, a number of the summary."""

    kind: Literal["bars"]
    y: str
    by: str


class TablePanel(Panel):
    """The tables of all runs, one after another."""

    kind: Literal["table"]
    table: str


class GalleryPanel(Panel):
    """Pictures that runs logged under these keys."""

    kind: Literal["gallery"]
    keys: list[str]


AnyPanel = Annotated[ChartPanel | ScatterPanel | BarsPanel | TablePanel | GalleryPanel, Field(discriminator="kind")]


class Section(Part):
    """A heading, a text and a grid of panels."""

    title: str
    text: str = ""
    panels: list[AnyPanel]


class Dashboard(Part):
    """A report: what a YAML file in sweeps/dashboards/ holds."""

    title: str
    description: str = ""
    sections: list[Section]


class Chart:
    """A custom chart as W&B registers it. Its name is made of its content: a changed one leaves older reports alone."""

    def __init__(self, path: Path) -> None:
        try:
            self.spec: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RefexpError(f"{path}: not a readable Vega-Lite specification: {error}") from None
        text = json.dumps(self.spec, sort_keys=True)
        self.fields = set(re.findall(r"\$\{field:(\w+)\}", text))
        stem = path.name.split(".")[0]
        self.name = f"refexp-{stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def read(path: Path) -> tuple[Dashboard, dict[str, Chart]]:
    """A definition and the charts it names, by file name. Raises RefexpError that names the file and the key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        dashboard = Dashboard.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RefexpError(f"{path}: {first_line(error)}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise RefexpError(f"{path}: {where}{first['msg']}.") from None
    panels = [panel for section in dashboard.sections for panel in section.panels if isinstance(panel, ChartPanel)]
    charts = {panel.spec: Chart(path.parent / panel.spec) for panel in panels}
    for panel in panels:
        if set(panel.fields) != charts[panel.spec].fields:
            wanted = ", ".join(sorted(charts[panel.spec].fields))
            raise RefexpError(f"{path}: panel '{panel.title}': {panel.spec} needs the fields {wanted}.")
    return dashboard, charts


def library() -> Any:
    """W&B's library of reports. Raises RefexpError with the pip command if it is missing."""
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        raise RefexpError(
            "refexp.dashboard needs packages that are not installed: pip install 'wandb>=0.31' 'wandb-workspaces>=0.4'"
        ) from None
    return reports


def build_report(
    dashboard: Dashboard, charts: dict[str, Chart], entity: str, project: str, group: str | None = None
) -> Any:
    """The `wandb_workspaces.reports.v2.Report`, not yet saved; nothing is asked of the network.

    group: only runs of this group (a sweep's folder, see conf/logger/wandb.yaml); None takes those of the project.
    """
    reports = library()
    from wandb_workspaces.expr import And, Metric

    if group and set(group) & set("'\"\\"):
        raise RefexpError(
            f"--group={group}: W&B's library cannot filter by a name with quotation marks or backslashes."
        )
    blocks = [reports.TableOfContents()]
    for section in dashboard.sections:
        blocks += [reports.H2(section.title), *([reports.P(section.text)] if section.text else [])]
        runs = reports.Runset(name=group or project, filters=And(Metric("Group") == group) if group else "")
        panels, x, y = [], 0, 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + panel.height
            layout = reports.Layout(x=x, y=y, w=panel.width, h=panel.height)
            panels.append(_panel(panel, layout, charts, entity))
            x += panel.width
        blocks.append(reports.PanelGrid(runsets=[runs], panels=panels))
    return reports.Report(
        project=project, entity=entity, title=dashboard.title, description=dashboard.description, blocks=blocks,
        width="fluid",
    )  # fmt: skip


def _panel(panel: AnyPanel, layout: Any, charts: dict[str, Chart], entity: str) -> Any:
    reports = library()
    if isinstance(panel, ChartPanel):
        return reports.CustomChart(
            query={"summaryTable": {"tableKey": panel.table}},
            chart_name=f"{entity}/{charts[panel.spec].name}",
            chart_fields=panel.fields,
            chart_strings={"title": panel.title} | panel.fields,
            layout=layout,
        )
    if isinstance(panel, ScatterPanel):
        x, y = reports.Config(panel.x), reports.SummaryMetric(panel.y)
        return reports.ScatterPlot(title=panel.title, x=x, y=y, layout=layout)
    if isinstance(panel, BarsPanel):
        return reports.BarPlot(
            title=panel.title, metrics=[reports.SummaryMetric(panel.y)], orientation="v", layout=layout,
            groupby=reports.Config(panel.by), groupby_aggfunc="mean", groupby_rangefunc="stddev",
        )  # fmt: skip
    if isinstance(panel, TablePanel):
        return reports.WeavePanelSummaryTable(table_name=panel.table, layout=layout)
    return reports.MediaBrowser(title=panel.title, media_keys=panel.keys, layout=layout)


def publish(report: Any, charts: dict[str, Chart]) -> str:
    """Register the charts and save the report; its address. Raises RefexpError with what W&B says if it refuses."""
    import wandb

    try:
        for chart in charts.values():
            _register(wandb.Api(), report.entity, chart)
        report.save()
    except Exception as error:
        raise RefexpError(f"W&B did not take the report: {first_line(error)}") from error
    return report.url


def _register(api: Any, entity: str, chart: Chart) -> None:
    import wandb

    try:
        api.create_custom_chart(entity, chart.name, chart.name, "vega2", "private", chart.spec)
    except wandb.Error as error:
        # What has this name already is the same chart; whatever else is wrong, the report shows its other panels.
        print(f"chart {chart.name}: {first_line(error)}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code is 0 only if everything went well."""
    parser = argparse.ArgumentParser(prog="python -m refexp.dashboard", description="Build a W&B report from a YAML.")
    parser.add_argument("definition", type=Path, help="such as sweeps/dashboards/ablation.yaml")
    parser.add_argument("--project", default="refexp", help="of the runs, and of the report (%(default)s)")
    parser.add_argument("--entity", help="user or team; the key's own if it is not given")
    parser.add_argument("--group", help="compare the runs of this group only: the name of a sweep's folder")
    parser.add_argument("--dry-run", action="store_true", help="print the report as JSON; nothing is sent")
    given = parser.parse_args(arguments)
    try:
        dashboard, charts = read(given.definition)
        if given.dry_run:
            report = build_report(dashboard, charts, given.entity or "ENTITY", given.project, given.group)
            print(report._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1))
            return 0
        library()
        report = build_report(dashboard, charts, given.entity or own_entity(), given.project, given.group)
        print(publish(report, charts))
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def own_entity() -> str:
    """The entity of the key. Raises RefexpError if there is no key, or nobody answers."""
    import wandb

    try:
        entity = wandb.Api().default_entity
    except Exception as error:
        raise RefexpError(
            f"W&B: {first_line(error).rstrip('.')}. `wandb login` sets a key; --dry-run needs none."
        ) from None
    if not entity:
        raise RefexpError("W&B knows no default entity for this key: give --entity.")
    return entity


if __name__ == "__main__":
    sys.exit(main())
