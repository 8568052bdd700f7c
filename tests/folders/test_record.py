"""The record of a run: its objective, its label if it is a trial, and what showing adds to it."""

from __future__ import annotations

import json

import pytest

from refexp.folders.record import Metrics, RunRecord, partial_note
from refexp.folders.run_folder import RunFolder


def record(objective: str | None, **metrics: float | None) -> RunRecord:
    flat = {name.replace("_", "/"): value for name, value in metrics.items()}
    return RunRecord({"objective": objective}, "", 0, 1, (), 1, Metrics.from_flat(flat))


@pytest.mark.parametrize(
    ("wanted", "metrics", "value"),
    [
        (None, {"bbox_nAP": 0.1, "segm_nAP": 0.2}, 0.2),
        (None, {"bbox_nAP": 0.1}, 0.1),
        (None, {"semantic_mIoU": 0.3}, 0.3),
        (None, {}, None),
        ("bbox/nAP50", {"segm_nAP": 0.2, "bbox_nAP50": 0.4}, 0.4),
        ("segm/nAP/leaf", {"segm_nAP_leaf": 0.5}, 0.5),
        ("bbox/nAP", {"segm_nAP": 0.2}, None),
    ],
)
def test_objective(wanted, metrics, value):
    assert record(wanted, **metrics).objective == value


@pytest.mark.parametrize("limit", [None, 4, 5])
def test_a_whole_run_has_no_label(limit):
    assert partial_note(limit, 4) is None


def test_a_partial_run_has_one():
    assert partial_note(50, 5000) == "PARTIAL: the first 50 of 5000 targets."


def test_what_is_shown_first_counts_as_a_stage(tmp_path):
    run = RunFolder(tmp_path)
    run.write_record(record(None, segm_nAP=0.2))
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of a newer version": 1}))
    run.add_stage("page", 1.5)
    run.add_stage("page", 9.0)
    assert run.record.stages["page"]["seconds"] == 1.5
    assert RunRecord.read(tmp_path) == run.record
    assert json.loads(path.read_text())["of a newer version"] == 1
