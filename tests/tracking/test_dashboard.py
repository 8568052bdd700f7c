"""Dashboards: what W&B's library makes of a definition, and that a mistake in one is named. Nothing is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import refexp

from refexp.errors import RefexpError
from refexp.tracking.dashboard import build_report, publish, read

ROOT = Path(__file__).parents[2]
DEFINITION = ROOT / "sweeps" / "dashboards" / "ablation.yaml"


# W&B's library still uses validators of pydantic 1.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)


@pytest.fixture(scope="module")
def grids() -> dict[str, dict]:
    """The serialised report's grids of panels, by the heading they stand under."""
    report = build_report(read(DEFINITION), "someone", "things", "2026 sweep")
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
        "Shots": ["Bar Chart", "Bar Chart"],
        "Every run": ["Scatter Plot", "Scatter Plot"],
        "Matcher and postprocessing": ["Bar Chart", "Bar Chart"],
        "Classes": ["Weave"],
        "Samples": ["Media Browser", "Media Browser"],
    }


def test_the_library_reads_the_report_back():
    report = build_report(read(DEFINITION), "someone", "things", "2026 sweep")
    again = type(report)._from_model(report._to_model())
    assert (again.title, [type(block) for block in again.blocks]) == (report.title, [type(b) for b in report.blocks])
    bars = again.blocks[3].panels[0]
    assert (bars.metrics[0].name, again.blocks[3].runsets[0].groupby) == (
        "segm/nAP",
        ["config.options.value.variant", "config.shots.value.n"],
    )


def test_runs_of_the_group_alone(grids):
    for grid in grids.values():
        (condition,) = grid["runSets"][0]["filters"]["filters"]
        assert (condition["key"]["name"], condition["op"], condition["value"]) == ("group", "=", "2026 sweep")


@pytest.mark.parametrize("group", ["the 'sweep'", "seed=0"])
def test_a_group_that_cannot_be_filtered(group):
    with pytest.raises(RefexpError, match=r"cannot filter by a name that contains ['=]"):
        build_report(read(DEFINITION), "someone", "things", group)


def test_panels_lie_side_by_side_and_below(tmp_path):
    path = tmp_path / "report.yaml"
    panel = "{kind: table, table: per_class, width: %d}"
    path.write_text(f"title: T\nsections: [{{title: S, panels: [{', '.join(panel % w for w in (12, 12, 24, 8))}]}}]")
    layouts = [panel.layout for panel in build_report(read(path), "someone", "things").blocks[-1].panels]
    assert [(at.x, at.y, at.w) for at in layouts] == [(0, 0, 12), (12, 0, 12), (0, 10, 24), (0, 20, 8)]


def test_runs_in_groups_of_two_keys(grids):
    keys = {heading: [key["name"] for key in grid["runSets"][0]["grouping"]] for heading, grid in grids.items()}
    assert keys["Shots"] == ["options.value.variant", "shots.value.n"]
    assert keys["Matcher and postprocessing"] == ["options.value.matcher", "options.value.postprocess"]
    assert keys["Every run"] == []


def test_keys_of_configuration_and_summary(grids):
    scatter, bars = panels(grids["Every run"])[0]["config"], panels(grids["Shots"])[0]["config"]
    assert (scatter["xAxis"], scatter["yAxis"]) == ("config:shots.value.n", "summary:segm/nAP")
    assert (bars["metrics"], bars["groupAgg"], bars["groupArea"]) == (["summary_metrics.segm/nAP"], "mean", "stddev")
    assert panels(grids["Samples"])[0]["config"]["mediaKeys"] == ["samples/targets"]


def test_dry_run_prints_the_report(capsys):
    assert refexp("dashboard", str(DEFINITION), "--dry-run") == 0
    assert json.loads(capsys.readouterr().out)["displayName"] == "Ablation"


def test_without_the_service(capsys):
    assert refexp("dashboard", str(DEFINITION)) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: W&B: ")
    assert "--dry-run" in error


class Report:
    entity, url, saved = "", "https://example.org/report", False

    def save(self) -> Report:
        self.saved = True
        return self


@pytest.mark.parametrize("entity", ["a team", None])
def test_the_report_is_saved_for_an_entity(entity, monkeypatch):
    monkeypatch.setattr("wandb.Api", lambda: type("Api", (), {"default_entity": "the key's own"}))
    report = Report()
    assert publish(report, entity) == report.url
    assert (report.saved, report.entity) == (True, entity or "the key's own")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 24", "widht: 24", r"sections\.3\.panels\.0\.table\.widht: Extra inputs"),
        ("kind: bars", "kind: pie", "does not match any of the expected tags"),
        ("by: [options.matcher", "of: [options.matcher", r"sections\.2\.of: Extra inputs"),
        ("keys: [samples/targets]", "keys: samples/targets", r"sections\.4\.panels\.0\.gallery\.keys: .* valid list"),
        ("title: Ablation", "title: [", "while parsing"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, message):
    path = tmp_path / "ablation.yaml"
    assert old in DEFINITION.read_text()
    path.write_text(DEFINITION.read_text().replace(old, new))
    with pytest.raises(RefexpError, match=message):
        read(path)


@pytest.mark.parametrize("content", [b"", b"title: \xe4\n"])
def test_a_definition_that_is_none(tmp_path, capsys, content):
    (tmp_path / "report.yaml").write_bytes(content)
    assert refexp("dashboard", str(tmp_path / "report.yaml"), "--dry-run") == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'report.yaml'}: ")


def test_a_definition_that_is_not_there(tmp_path):
    with pytest.raises(RefexpError, match=r"nowhere\.yaml"):
        read(tmp_path / "nowhere.yaml")
