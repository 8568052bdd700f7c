"""Dashboards as code: a W&B report built from a YAML file.

    refexp dashboard sweeps/dashboards/ablation.yaml --project refexp --group SWEEP

The report is built and serialised by W&B's own library (wandb-workspaces 0.4), and all its panels are W&B's own. These
have no heat map, and no line over runs: a line plot has only steps of one run across. So a section's runs are put into
groups by keys of their configuration, and bars show each group's mean and deviation.
Saving the report needs the service, and was never tried against it; the tests serialise the report without it.
"""

from __future__ import annotations

import argparse
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

    def build(self, reports: Any, layout: Any) -> Any:
        """The panel as W&B's library `reports` has it."""


class BarsPanel(Panel):
    """A bar for each group of the section: mean and deviation of y, a number of the summary."""

    kind: Literal["bars"]
    y: str

    def build(self, reports: Any, layout: Any) -> Any:
        return reports.BarPlot(
            title=self.title, metrics=[reports.SummaryMetric(self.y)], orientation="v", groupby_aggfunc="mean",
            groupby_rangefunc="stddev", max_runs_to_show=100, max_bars_to_show=100, layout=layout,
        )  # fmt: skip


class ScatterPanel(Panel):
    """A point a run, or a group. x: a key of the configuration; y: a number of the summary."""

    kind: Literal["scatter"]
    x: str
    y: str

    def build(self, reports: Any, layout: Any) -> Any:
        x, y = reports.Config(self.x), reports.SummaryMetric(self.y)
        return reports.ScatterPlot(title=self.title, x=x, y=y, layout=layout)


class TablePanel(Panel):
    """The tables of all runs, one after another."""

    kind: Literal["table"]
    table: str

    def build(self, reports: Any, layout: Any) -> Any:
        return reports.WeavePanelSummaryTable(table_name=self.table, layout=layout)


class GalleryPanel(Panel):
    """Pictures that runs logged under these keys."""

    kind: Literal["gallery"]
    keys: list[str]

    def build(self, reports: Any, layout: Any) -> Any:
        return reports.MediaBrowser(title=self.title, media_keys=self.keys, layout=layout)


class Section(Part):
    """A heading, a text and a grid of panels. by: keys of the configuration; runs that agree in them are a group."""

    title: str
    text: str = ""
    by: list[str] = []
    panels: list[Annotated[BarsPanel | ScatterPanel | TablePanel | GalleryPanel, Field(discriminator="kind")]]


class Dashboard(Part):
    """A report: what a YAML file in sweeps/dashboards/ holds."""

    title: str
    description: str = ""
    sections: list[Section]


def read(path: Path) -> Dashboard:
    """A definition. Raises RefexpError that names the file and the key."""
    try:
        return Dashboard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise RefexpError(f"{path}: {where}{first['msg']}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RefexpError(f"{path}: {first_line(error)}") from None


def build_report(dashboard: Dashboard, entity: str, project: str, group: str | None = None) -> Any:
    """The `wandb_workspaces.reports.v2.Report`, not yet saved; nothing is asked of the network.

    group: only runs of this group (a sweep's folder, see conf/logger/wandb.yaml); None takes those of the project.
    Raises RefexpError if W&B's library is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        packages = "'wandb>=0.31' 'wandb-workspaces>=0.4'"
        raise RefexpError(f"refexp dashboard needs packages that are not installed: pip install {packages}") from None
    if group and (bad := set(group) & set("'\"\\=<>")):
        raise RefexpError(f"--group={group}: W&B's library cannot filter by a name with {' '.join(sorted(bad))} in it.")
    blocks: list[Any] = [reports.TableOfContents()]
    for section in dashboard.sections:
        blocks += [reports.H2(section.title), *([reports.P(section.text)] if section.text else [])]
        runs = reports.Runset(
            name=group or project, filters=f"Group = '{group}'" if group else "",
            groupby=[f"config.{key}" for key in section.by],
        )  # fmt: skip
        panels, x, y = [], 0, 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + panel.height
            panels.append(panel.build(reports, reports.Layout(x=x, y=y, w=panel.width, h=panel.height)))
            x += panel.width
        blocks.append(reports.PanelGrid(runsets=[runs], panels=panels))
    return reports.Report(
        project=project, entity=entity, title=dashboard.title, description=dashboard.description, blocks=blocks,
        width="fluid",
    )  # fmt: skip


def publish(report: Any, entity: str | None) -> str:
    """Save the report; its address. entity: None is the key's own. Raises RefexpError with what W&B says against it."""
    import wandb

    try:
        report.entity = entity or wandb.Api().default_entity
        return report.save().url
    except Exception as error:
        said = first_line(error).rstrip(".")
        raise RefexpError(f"W&B: {said}. `wandb login` sets a key; --dry-run needs none.") from error


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code is 0 only if everything went well."""
    parser = argparse.ArgumentParser(prog="refexp dashboard", description="Build a W&B report from a YAML.")
    parser.add_argument("definition", type=Path, help="such as sweeps/dashboards/ablation.yaml")
    parser.add_argument("--project", default="refexp", help="of the runs, and of the report (%(default)s)")
    parser.add_argument("--entity", help="user or team; the key's own if it is not given")
    parser.add_argument("--group", help="compare the runs of this group only: the name of a sweep's folder")
    parser.add_argument("--dry-run", action="store_true", help="print the report as JSON; nothing is sent")
    given = parser.parse_args(arguments)
    try:
        report = build_report(read(given.definition), given.entity or "ENTITY", given.project, given.group)
        if given.dry_run:
            print(report._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1))
        else:
            print(publish(report, given.entity))
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
