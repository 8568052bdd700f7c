"""The clock of a run."""

from __future__ import annotations

import time

from refexp.machine.provenance import Clock


def test_a_stage_does_not_count_the_stages_inside_it(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock()
    with clock.stage("prepare", 0):
        now[0] += 1
        with clock.stage("remember", 4):
            now[0] += 8
        now[0] += 2
    now[0] += 5
    report = clock.report()
    assert {name: stage["seconds"] for name, stage in report.items()} == {"remember": 8, "prepare": 3, "other": 5}
    assert report["remember"]["per_second"] == 0.5
