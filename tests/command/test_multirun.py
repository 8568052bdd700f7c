"""The jobs of a multirun: no pages of their own, an objective for Hydra's sweepers, and everything in run.log."""

from __future__ import annotations

import os
import sys

import pytest
import yaml
from runs import refexp

from refexp.folders.run_folder import RunFolder


@pytest.fixture
def multirun(folder, tmp_path, monkeypatch):
    """`multirun("seed=0,1", ...)` -> the folder of a finished multirun, in this process."""

    def run(*words: str):
        monkeypatch.chdir(tmp_path)
        out, store = f"hydra.sweep.dir={tmp_path / 'sweep'}", f"store.dir={tmp_path / 'store'}"
        for name, value in (("argv", list(sys.argv)), ("path", list(sys.path))):
            monkeypatch.setattr(sys, name, value)
        monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
        assert refexp("run", "-m", *folder.overrides(), out, store, *words) == 0
        return tmp_path / "sweep"

    return run


def test_jobs_have_pages_only_if_they_are_the_best_or_the_worst(multirun, capsys):
    out = multirun("seed=0,1,2", "objective=bbox/nAP50", "vis.limit=1")
    values = {number: RunFolder(out / str(number)).record.objective for number in range(3)}
    pages = [number for number in values if (out / f"{number}/report.html").exists()]
    ranked = sorted(values, key=lambda number: (values[number], number))
    assert sorted({ranked[0], ranked[-1]}) == pages and (out / "report.html").exists()
    assert [number for number in values if (out / f"{number}/overlays").exists()] == pages
    for number in values:
        stages = RunFolder(out / str(number)).record.stages
        assert ("page" in stages, "overlays" in stages) == ((number in pages,) * 2)
    assert "pages of the best and the worst run: " in capsys.readouterr().out
    said = (out / "0/run.log").read_text()
    assert "overrides: dataset=custom" in said and "versions: python 3" in said
    assert said.count("results in") == 2 and "per class" in said  # at the start, and below the tables


def test_jobs_that_keep_no_detections_have_tables(multirun):
    out = multirun("seed=0,1", "detections=none", "vis.score_threshold=0.1")
    for number in range(2):
        said = (out / f"{number}/run.log").read_text()
        assert "per class" in said and "Traceback" not in said and "failed" not in said


def test_optuna_maximises_the_objective(multirun):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    out = multirun(
        "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1",
        "hydra.sweeper.direction=maximize", "postprocess.topk.k=range(1,30)", "vis.limit=0",
    )  # fmt: skip
    values = [RunFolder(out / str(number)).record.metrics.flat["segm/nAP"] for number in range(2)]
    assert yaml.safe_load((out / "optimization_results.yaml").read_text())["best_value"] == max(values) > 0
