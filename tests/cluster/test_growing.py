"""Sweeps that grow: a job is what it runs, only what is missing runs, and nothing is replaced in silence."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from runs import refexp

import refexp as package
from refexp.cluster import from_python
from refexp.cluster.from_python import as_frame, spelled
from refexp.cluster.identity import Known, refuse_changed, refuse_shared_folders, telling
from refexp.cluster.pairs import in_pairs
from refexp.command.job import job
from refexp.config.composing import resolve
from refexp.errors import RefexpError
from refexp.folders.record import Metrics, RunRecord
from refexp.folders.sweep_folder import Job, Sweep, survey

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "dataset.targets=2")


class Multirun:
    """`multirun("seed=0,1")` -> the exit code of `refexp run -m`. Its jobs count themselves and compute nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran, self.broken, self.interrupted = folder, [], False, 0

    def __call__(self, *words: str, folder: Path | None = None) -> int:
        return refexp("run", "-m", *QUIET, *words, f"hydra.sweep.dir={folder or self.folder}")

    def compute(self, config, output: Path, overrides) -> None:
        with job(output, overrides):
            settings = resolve(config)
            if len(self.ran) + 1 == self.interrupted:
                self.interrupted = 0
                raise KeyboardInterrupt
            what = (settings["shots"]["n"], settings["seed"], "merge" in settings["postprocess"])
            self.ran.append(what)
            if self.broken:
                raise RefexpError("no such weights")
            output.joinpath("config.yaml").write_text(json.dumps(settings))
            metrics = Metrics.from_flat({"segm/nAP": sum(what) / 100})
            record = RunRecord(settings, "drawn", settings["seed"], settings["shots"]["n"], ("cat",), 2, metrics)
            output.joinpath("metrics.json").write_text(json.dumps(record.to_json()))

    def runs(self, folder: Path | None = None) -> pd.DataFrame:
        return as_frame(folder or self.folder, ["shots", "seed", "postprocess"])

    def states(self) -> list[str]:
        return [record.state for record in survey(Sweep(self.folder))]


@pytest.fixture
def multirun(tmp_path, monkeypatch):
    made = Multirun(tmp_path / "sweep")
    for name in ("PYTHONPATH", "HYDRA_FULL_ERROR", "GOMP_SPINCOUNT"):  # the command sets them
        monkeypatch.setenv(name, "")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("refexp.command.job.run_job", made.compute)
    monkeypatch.setattr("refexp.show.tables.summary.summarise_sweep", lambda folder: None)
    return made


def by_settings(frame: pd.DataFrame) -> pd.DataFrame:
    keys = ["shots", "seed", "postprocess"]
    return frame.sort_values(keys)[[*keys, "state", "segm/nAP"]].reset_index(drop=True)


def test_a_sweep_that_grew_is_the_sweep_that_began_whole(multirun, tmp_path, capfd):
    multirun.interrupted = 2
    assert multirun("seed=0,1") == 130
    assert multirun.states() == ["completed", "stopped"]
    assert multirun("seed=0,1") == 0
    before = {path: path.stat().st_mtime_ns for path in multirun.folder.glob("*/*")}
    # Other order, other spelling, and a default said outright.
    assert multirun("shots=1,5", "seed=1,0") == 0
    multirun.interrupted = 6
    whole = ("shots=custom", "shots.n=1,5", "seed=0,1", "postprocess=nms,soft_merge", "vis.limit=3")
    assert multirun(*whole) == 130
    assert f"hydra.sweep.dir={multirun.folder}" in capfd.readouterr().out
    assert multirun(*whole) == 0
    assert set(Counter(multirun.ran).values()) == {1} and len(multirun.ran) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(multirun.runs()["job"]) == list(range(8))
    assert multirun(*whole, folder=tmp_path / "whole") == 0
    pd.testing.assert_frame_equal(by_settings(multirun.runs()), by_settings(multirun.runs(tmp_path / "whole")))


def test_a_changed_constant_is_refused_with_the_way_out(multirun, capfd):
    assert multirun("seed=0", "postprocess=nms") == 0
    assert multirun("seed=0,1", "postprocess=soft_merge") == 1
    said = capfd.readouterr().err
    assert f"postprocess=soft_merge: the sweep in {multirun.folder} has postprocess=nms in all jobs" in said
    assert "list both values (postprocess=nms,soft_merge), or give another hydra.sweep.dir" in said
    assert (multirun.states(), len(multirun.ran)) == (["completed"], 1)
    # As if a file of the configuration had another value when the job ran.
    config = multirun.folder / "0/config.yaml"
    config.write_text(config.read_text().replace('"input_size": 512', '"input_size": 256'))
    assert multirun("seed=0,1", "postprocess=nms") == 1
    said = capfd.readouterr().err
    assert "has encoder.input_size=256 in all jobs, for a file of the configuration has changed; sweep.only=all" in said
    assert multirun("seed=0,1", "postprocess=nms", "sweep.only=all") == 0
    assert multirun.states() == ["completed"] * 2


def test_what_is_repeated_is_said(multirun, caplog):
    caplog.set_level("INFO")
    assert multirun("seed=0,1", "sweep.only=[0]") == 1  # not all are completed
    assert multirun.states() == ["completed", "not started"]
    assert multirun("seed=0,1,2", "sweep.only=[0,2]") == 1
    assert "1 of 3 jobs are completed" in caplog.text and "the results of #0 are replaced" in caplog.text
    assert [seed for _, seed, _ in multirun.ran] == [0, 0, 2]
    assert not any("sweep" in word for of, _ in Sweep(multirun.folder).jobs() for word in of.overrides)


def test_a_sweep_of_the_version_before_grows(multirun):
    shutil.copytree(ROOT / "tests/fixtures/v0/sweep", multirun.folder)
    content = json.loads((multirun.folder / "sweep.json").read_text())
    # Its numbers could get the overrides of other jobs; their folders know better.
    content["jobs"]["1"]["overrides"][-1] = "seed=0"
    (multirun.folder / "sweep.json").write_text(json.dumps(content))
    assert [of.overrides[-1] for of, _ in Sweep(multirun.folder).jobs()] == ["seed=0", "seed=1"]
    same = ("dataset.references=12", "dataset.classes=[ladybird, leaf]", "postprocess.topk.k=4")
    assert multirun(*same, "shots=1", "seed=0,1,2") == 0
    assert multirun.ran == [(1, 2, True)] and multirun.states() == ["completed"] * 3


def test_jobs_that_still_run_are_not_started_twice(multirun, capfd, monkeypatch):
    assert multirun("seed=0,1") == 0
    (multirun.folder / "1/status.json").unlink()
    monkeypatch.setattr("refexp.folders.sweep_folder.local_state", lambda pid, host: "RUNNING")
    assert multirun("seed=0,1") == 1
    assert "#1 still wait or run" in capfd.readouterr().err


def test_pairs_and_equal_failures(multirun, capfd):
    multirun.broken = True
    assert multirun("shots=1,5,10,30", "seed=3,2,1,0", "sweep.zip=[shots,seed]", "sweep.stop_after=2") == 1
    assert multirun.ran == [(1, 3, True), (5, 2, True)]
    said = capfd.readouterr().out
    assert "#0, #1 failed: no such weights" in said
    assert "#2, #3 stopped: not run, because 2 jobs failed: no such weights" in said
    multirun.broken = False
    assert multirun("shots=1,5,10,30", "seed=3,2,1,0", "sweep.zip=[shots,seed]", "sweep.stop_after=2") == 0
    assert multirun.ran[2:] == [(1, 3, True), (5, 2, True), (10, 1, True), (30, 0, True)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shots=1,5", "seed=0", "sweep.zip=[shots,seed]"], "seed has no list of values; give seed=A,B"),
        (["shots=1,5", "seed=0,1,2", "sweep.zip=[shots,seed]"], "shots has 2, seed has 3"),
        (["shots=1,5", "seed=0,1", "sweep.zip=[shots,seed]", "hydra/sweeper=basic"], "only hydra/sweeper=grid"),
        (["seed=0,1", "sweep.only=[7]"], "this command has no job 7"),
        (["seed=0,1", "hydra.sweep.subdir=same"], "jobs 0 and 1 would both write to same"),
    ],
)
def test_a_mistake_is_one_line(multirun, capfd, words, message):
    assert multirun(*words) == 1
    assert message in capfd.readouterr().err and not multirun.ran


def known(number: int, command: int = 0, **settings: str) -> Known:
    return Known(Job(number, [], str(number)), command, settings, settings)


def test_a_setting_that_changes_no_result_tells_jobs_apart_only_where_it_is_swept():
    jobs = [known(0, seed="0", name="a"), known(1, 1, seed="1", name="b")]
    assert telling(jobs, [{"seed": "2", "name": "c"}]) == ["seed"]
    assert telling([known(0, seed="0", name="a"), known(1, seed="0", name="b")], []) == ["seed", "name"]


def test_what_may_change(tmp_path):
    jobs = [known(0, seed="0", shots="1", matcher="a", k="5")]
    refuse_changed(tmp_path, jobs, [{"seed": "7", "shots": "5", "matcher": "a", "k": "5"}], [])
    refuse_changed(tmp_path, jobs, [{"matcher": "b", "k": "5"}, {"matcher": "a", "k": "5"}], [])
    with pytest.raises(RefexpError, match=r"^k=none: the sweep"):
        refuse_changed(tmp_path, jobs, [{"matcher": "b"}], ["~k"])
    with pytest.raises(RefexpError, match="jobs 3 and 4 would both write to x"):
        refuse_shared_folders([Job(3, [], "x"), Job(4, [], "x")])
    assert in_pairs([], []) == [[]]


def test_from_python(tmp_path, monkeypatch):
    import numpy as np

    asked = []
    monkeypatch.setattr(from_python, "run", asked.append)
    monkeypatch.setattr(from_python, "as_frame", lambda folder, keys: (folder, keys))
    grid = {"shots": [1, 5], "seed": np.arange(2), "matcher": "mine", "dataset.classes": [["a b", "c"]]}
    folder, keys = package.sweep(grid, tmp_path, dataset="custom", masks=True, **{"proposer.iou_threshold": None})
    assert (folder, keys) == (tmp_path, ["shots", "seed"])
    assert asked[0] == [
        "shots=1,5", "seed=0,1", "matcher='mine'", "dataset.classes=['a b','c']", "dataset='custom'", "masks=true",
        "proposer.iou_threshold=null", f"hydra.sweep.dir={tmp_path}",
    ]  # fmt: skip
    assert spelled({"it's": np.float64(0.5)}) == "{it's:0.5}" and spelled("it's") == r"'it\'s'"
    with pytest.raises(RefexpError, match="seed: its list of values is empty"):
        package.sweep({"seed": []})


def test_what_the_command_refuses_is_raised(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RefexpError, match="encoder=nonsense: no such option"):
        from_python.run(["encoder=nonsense"])
    assert "no such option" in capsys.readouterr().out
