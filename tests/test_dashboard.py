"""Dashboards: what W&B's library makes of a definition, and that a mistake in one is named. Nothing is sent."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from refexp import dashboard
from refexp.dashboard import build_report, main, read
from refexp.errors import RefexpError

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "sweeps" / "dashboards"
DEFINITION = FOLDER / "ablation.yaml"


# W&B's library still uses validators of pydantic 1.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(scope="module")
def grids() -> dict[str, dict]:
    """The serialised report's grids of panels, by the heading they stand under."""
    dashboard, charts = read(DEFINITION)
    report = build_report(dashboard, charts, "someone", "things", "2026 sweep")
    spec = json.loads(report._to_model().model_dump_json(by_alias=True, exclude_none=True))["spec"]
    found, heading = {}, ""
    for block in spec["blocks"]:
        if block["type"] == "heading":
            heading = block["children"][0]["text"]
        elif block["type"] == "panel-grid":
            found[heading] = block["metadata"]
    return found


def panels(grid: dict) -> list[dict]:
    return grid["panelBankSectionConfig"]["panels"]


def test_sections_and_panels(grids):
    assert {heading: [panel["viewType"] for panel in panels(grid)] for heading, grid in grids.items()} == {
        "Shots": ["Vega2", "Vega2", "Scatter Plot"],
        "Matcher and postprocessing": ["Vega2", "Bar Chart"],
        "Classes": ["Vega2", "Weave"],
        "Samples": ["Media Browser", "Media Browser"],
    }


def test_runs_of_the_group_alone(grids):
    for grid in grids.values():
        (condition,) = grid["runSets"][0]["filters"]["filters"]
        assert (condition["key"]["name"], condition["op"], condition["value"]) == ("group", "=", "2026 sweep")


def test_a_group_that_cannot_be_filtered():
    with pytest.raises(RefexpError, match="quotation marks"):
        build_report(*read(DEFINITION), "someone", "things", "the 'sweep'")


def test_panels_lie_side_by_side(grids):
    places = [[(p["layout"]["x"], p["layout"]["y"], p["layout"]["w"]) for p in panels(grid)] for grid in grids.values()]
    assert places[0] == [(0, 0, 12), (12, 0, 12), (0, 10, 24)]
    assert places[3] == [(0, 0, 16), (16, 0, 8)]


def test_charts_ask_for_the_tables_of_the_logger(grids):
    chart = panels(grids["Classes"])[0]["config"]
    asked = chart["userQuery"]["queryFields"][0]["fields"][0]
    assert (asked["name"], asked["args"]) == ("summaryTable", [{"name": "tableKey", "value": "per_class"}])
    assert chart["fieldSettings"] == {"x": "shots", "y": "class", "value": "segm/nAP"}
    assert re.fullmatch(r"someone/refexp-heatmap-[0-9a-f]{8}", chart["panelDefId"])


def test_keys_of_configuration_and_summary(grids):
    scatter, bars = panels(grids["Shots"])[2]["config"], panels(grids["Matcher and postprocessing"])[1]["config"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:shots.value.n", "summary:segm/nAP")
    assert (bars["groupBy"], bars["groupAgg"], bars["groupArea"]) == ("options.value.matcher", "mean", "stddev")
    assert panels(grids["Samples"])[0]["config"]["mediaKeys"] == ["samples/targets"]


def test_a_changed_chart_gets_another_name(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "dashboards")
    before = read(folder / "ablation.yaml")[1]["bars.vega.json"].name
    chart = folder / "bars.vega.json"
    chart.write_text(chart.read_text().replace("stdev", "stderr"))
    assert read(folder / "ablation.yaml")[1]["bars.vega.json"].name != before


def test_dry_run_prints_the_report(capsys):
    assert main([str(DEFINITION), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["displayName"] == "Ablation"


def test_without_the_service(capsys):
    assert main([str(DEFINITION)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: W&B: ")
    assert "--dry-run" in error


class Api:
    """Takes charts as the service would, one of them twice."""

    def __init__(self) -> None:
        self.charts: list[tuple] = []

    def create_custom_chart(self, *chart) -> str:
        import wandb

        self.charts.append(chart)
        if len(self.charts) == 2:
            raise wandb.Error("there is such a chart")
        return f"{chart[0]}/{chart[1]}"


class Report:
    entity, url, saved = "someone", "https://example.org/report", False

    def save(self) -> None:
        self.saved = True


def test_every_chart_is_registered_before_the_report_is_saved(monkeypatch, capsys):
    api = Api()
    monkeypatch.setattr("wandb.Api", lambda: api)
    _, charts = read(DEFINITION)
    report = Report()
    assert dashboard.publish(report, charts) == report.url
    assert report.saved
    assert [chart[1] for chart in api.charts] == [chart.name for chart in charts.values()]
    assert "there is such a chart" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 24", "widht: 24", r"sections\.0\.panels\.2\.scatter\.widht: Extra inputs"),
        ("kind: bars", "kind: pie", "does not match any of the expected tags"),
        ("spec: heatmap.vega.json", "spec: none.vega.json", r"none\.vega\.json: not a readable Vega-Lite"),
        ("value: segm/nAP", "colour: segm/nAP", r"heatmap\.vega\.json needs the fields value, x, y"),
        ("title: Ablation", "title: [", "while parsing"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, message):
    folder = shutil.copytree(FOLDER, tmp_path / "dashboards")
    path = folder / "ablation.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(RefexpError, match=message):
        read(path)


@pytest.mark.parametrize("content", [b"", b"title: \xe4\n"])
def test_a_definition_that_is_none(tmp_path, capsys, content):
    (tmp_path / "report.yaml").write_bytes(content)
    assert main([str(tmp_path / "report.yaml"), "--dry-run"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'report.yaml'}: ")


def test_a_definition_that_is_not_there(tmp_path):
    with pytest.raises(RefexpError, match=r"nowhere\.yaml"):
        read(tmp_path / "nowhere.yaml")
