"""Dashboards as code: a W&B report built from a YAML file.

    refexp dashboard sweeps/dashboards/ablation.yaml --project refexp --group SWEEP

W&B's own library (wandb-workspaces 0.4) builds and serialises the report, with W&B's own panels. These have no heat
map, and their line plots cannot have runs on the x axis. Therefore a section groups its runs by configuration keys, and
bar plots show the mean and deviation of each group.
Saving a report needs the W&B service. It was never tested against the service; the tests only serialise the report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from refexp.errors import RefexpError, first_line

COLUMNS = 24
"""Width of a report's grid of panels."""


class Part(BaseModel):
    """Base of all parts of a definition. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class Panel(Part):
    """A panel of a section. width: in columns of the grid (24). height: in rows of the grid."""

    title: str = ""
    width: Annotated[int, Field(ge=1, le=COLUMNS)] = 12
    height: Annotated[int, Field(ge=1)] = 10

    def build(self, reports: Any, layout: Any) -> Any:
        """Build the panel with W&B's library `reports`."""


class BarsPanel(Panel):
    """One bar for each group of the section: mean and deviation of y, a key of the run summary."""

    kind: Literal["bars"]
    y: str

    def build(self, reports: Any, layout: Any) -> Any:
        return reports.BarPlot(
            title=self.title, metrics=[reports.SummaryMetric(self.y)], orientation="v", groupby_aggfunc="mean",
            groupby_rangefunc="stddev", max_runs_to_show=100, max_bars_to_show=100, layout=layout,
        )  # fmt: skip


class ScatterPanel(Panel):
    """One point for each run or group. x: a key of the configuration. y: a key of the run summary."""

    kind: Literal["scatter"]
    x: str
    y: str

    def build(self, reports: Any, layout: Any) -> Any:
        x, y = reports.Config(self.x), reports.SummaryMetric(self.y)
        return reports.ScatterPlot(title=self.title, x=x, y=y, layout=layout)


class TablePanel(Panel):
    """The tables with this name of all runs, concatenated."""

    kind: Literal["table"]
    table: str

    def build(self, reports: Any, layout: Any) -> Any:
        return reports.WeavePanelSummaryTable(table_name=self.table, layout=layout)


class GalleryPanel(Panel):
    """The images that runs logged under these keys."""

    kind: Literal["gallery"]
    keys: list[str]

    def build(self, reports: Any, layout: Any) -> Any:
        return reports.MediaBrowser(title=self.title, media_keys=self.keys, layout=layout)


class Section(Part):
    """A heading, a text and a grid of panels. by: configuration keys; runs with equal values form a group."""

    title: str
    text: str = ""
    by: list[str] = []
    panels: list[Annotated[BarsPanel | ScatterPanel | TablePanel | GalleryPanel, Field(discriminator="kind")]]


class Dashboard(Part):
    """A report: the content of a YAML file in sweeps/dashboards/."""

    title: str
    description: str = ""
    sections: list[Section]


def read(path: Path) -> Dashboard:
    """Read a definition. Raises RefexpError that names the file and the wrong key."""
    try:
        return Dashboard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise RefexpError(f"{path}: {where}{first['msg']}.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RefexpError(f"{path}: this is no readable YAML ({first_line(error)}); see sweeps/dashboards/.") from None


def build_report(dashboard: Dashboard, entity: str, project: str, group: str | None = None) -> Any:
    """Build a `wandb_workspaces.reports.v2.Report` without saving it. Does not use the network.

    group: only runs of this group (a sweep's folder, see conf/logger/wandb.yaml). None: all runs of the project.
    Raises RefexpError if W&B's library is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        packages = "'wandb>=0.31' 'wandb-workspaces>=0.4'"
        raise RefexpError(f"refexp dashboard needs packages that are not installed: pip install {packages}") from None
    if group and (bad := set(group) & set("'\"\\=<>")):
        raise RefexpError(
            f"--group={group}: W&B's library cannot filter by a name that contains {' '.join(sorted(bad))}."
        )
    blocks: list[Any] = [reports.TableOfContents()]
    for section in dashboard.sections:
        blocks += [reports.H2(section.title), *([reports.P(section.text)] if section.text else [])]
        runs = reports.Runset(
            name=group or project, filters=f"Group = '{group}'" if group else "",
            groupby=[f"config.{key}" for key in section.by],
        )  # fmt: skip
        panels, x, y = [], 0, 0
        for panel in section.panels:
            if x + panel.width > COLUMNS:  # the row is full: start the next one
                x, y = 0, y + panel.height
            panels.append(panel.build(reports, reports.Layout(x=x, y=y, w=panel.width, h=panel.height)))
            x += panel.width
        blocks.append(reports.PanelGrid(runsets=[runs], panels=panels))
    return reports.Report(
        project=project, entity=entity, title=dashboard.title, description=dashboard.description, blocks=blocks,
        width="fluid",
    )  # fmt: skip


def publish(report: Any, entity: str | None) -> str:
    """Save the report and return its URL. entity: None takes the default of the API key.

    Raises RefexpError with W&B's message if W&B refuses it.
    """
    import wandb

    try:
        report.entity = entity or wandb.Api().default_entity
        return report.save().url
    except Exception as error:
        message = first_line(error).rstrip(".")
        raise RefexpError(f"W&B: {message}. Set an API key with `wandb login`; --dry-run needs no key.") from error
