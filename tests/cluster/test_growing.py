"""Sweeps that grow: a job is what it runs, only what is missing runs, and nothing is replaced in silence."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf
from runs import refexp

import refexp as package
from refexp.cluster import from_python
from refexp.cluster.from_python import as_frame, spelled
from refexp.cluster.identity import Known, as_run, refuse_changed, refuse_shared_folders, settings_of, telling
from refexp.cluster.launchers import BaseLauncher, folder_of
from refexp.cluster.pairs import in_pairs
from refexp.command.job import job
from refexp.errors import RefexpError
from refexp.files import write_json, write_text
from refexp.folders.record import Metrics, RunRecord
from refexp.folders.status import Status
from refexp.folders.sweep_folder import Job, Sweep, survey
from refexp.rank import Rank


class Grown(BaseLauncher):
    """`grow("seed=0,1", only="all")`: a multirun of a configuration of few settings. Its jobs count themselves."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.ran, self.interrupted, self.input_size = folder, [], 0, 512

    def __call__(self, *words: str, folder: Path | None = None, **sweep: object) -> list[JobStatus]:
        place = {"dir": str(folder or self.folder), "subdir": "${hydra.job.num}"}
        hydra = {"sweep": place, "overrides": {"hydra": []}, "runtime": {"choices": {"hydra/sweeper": "grid"}}}
        hydra |= {"hydra_logging": None, "verbose": False}
        self.config = OmegaConf.create({"sweep": {"detach": False} | sweep, "hydra": hydra})
        self.composed = {}  # each command is a process of its own
        self.compose = lambda overrides: self.load_sweep_config(self.config, overrides)
        lists = [[f"{key}={value}" for value in values.split(",")] for key, values in (w.split("=") for w in words)]
        return [result.status for result in self.launch([list(job) for job in product(*lists)], 0)]

    def load_sweep_config(self, config, overrides):
        given = {key.lstrip("+"): value.strip("'") for key, value in (word.split("=") for word in overrides)}
        own = {"seed": 0, "postprocess.topk.k": 100, "vis.limit": 8, "encoder.input_size": self.input_size}
        choices = {"shots": "5", "postprocess": "soft_merge"}
        chosen = choices | {key: value for key, value in given.items() if key in choices}
        own |= {"shots.n": chosen["shots"]} | {key: value for key, value in given.items() if key not in choices}
        own |= {"postprocess.merge._target_": "steps.SoftMerge"} if chosen["postprocess"] == "soft_merge" else {}
        made = OmegaConf.from_dotlist([f"{key}={value}" for key, value in own.items()])
        made.hydra = {"runtime": {"choices": chosen}}
        return made

    def run(self, sweep, todo, settings) -> None:
        for one in todo:
            if len(self.ran) + 1 == self.interrupted:
                self.interrupted = 0
                raise KeyboardInterrupt
            config = self.load_sweep_config(None, one.overrides)
            hydra, folder = config.pop("hydra"), sweep.folder / one.folder
            what = (config.shots.n, config.seed, "merge" in config.postprocess)
            self.ran.append(what)
            metrics = Metrics.from_flat({"segm/nAP": sum(what) / 100})
            record = RunRecord(OmegaConf.to_container(config), "drawn", config.seed, config.shots.n, (), 2, metrics)
            write_text(folder / "config.yaml", OmegaConf.to_yaml(config))
            write_text(folder / ".hydra/hydra.yaml", OmegaConf.to_yaml({"hydra": hydra}))
            write_json(folder / "metrics.json", record.to_json())
            Status(folder, one.overrides).end("completed")

    def runs(self, folder: Path | None = None) -> pd.DataFrame:
        return as_frame(folder or self.folder, ["shots", "seed", "postprocess"])

    def states(self) -> list[str]:
        return [record.state for record in survey(Sweep(self.folder))]


@pytest.fixture
def grow(tmp_path, monkeypatch):
    monkeypatch.setattr("refexp.cluster.launchers.configure_log", lambda *settings: None)
    monkeypatch.setattr("refexp.show.tables.summary.summarise_sweep", lambda folder: None)
    return Grown(tmp_path / "sweep")


def by_settings(frame: pd.DataFrame) -> pd.DataFrame:
    keys = ["shots", "seed", "postprocess"]
    return frame.sort_values(keys)[[*keys, "state", "segm/nAP"]].reset_index(drop=True)


def test_a_sweep_that_grew_is_the_sweep_that_began_whole(grow, tmp_path, capsys):
    grow.interrupted = 2
    with pytest.raises(KeyboardInterrupt):
        grow("seed=0,1")
    assert grow.states() == ["completed", "not started"]
    grow("seed=0,1")
    before = {path: path.stat().st_mtime_ns for path in grow.folder.glob("*/*")}
    grow("shots=1,'5'", "seed=1,0")  # in another order, and with a default said outright
    whole = ("shots.n=1,5", "seed=0,1", "postprocess=nms,soft_merge", "vis.limit=3")
    grow.interrupted = 6
    with pytest.raises(KeyboardInterrupt):
        grow(*whole)
    assert f"hydra.sweep.dir={grow.folder}" in capsys.readouterr().out
    assert grow(*whole) == [JobStatus.COMPLETED] * 8
    assert set(Counter(grow.ran).values()) == {1} and len(grow.ran) == 8
    assert {path: path.stat().st_mtime_ns for path in before} == before
    grown = grow.runs()
    assert list(grown["job"]) == list(range(8))
    grow(*whole, folder=tmp_path / "whole")
    pd.testing.assert_frame_equal(by_settings(grown), by_settings(grow.runs(tmp_path / "whole")))
    assert len(grow.ran) == 16


def test_a_changed_constant_is_refused_with_the_way_out(grow):
    grow("seed=0", "postprocess=nms")
    both = re.escape("list both values (postprocess=nms,soft_merge), or give another hydra.sweep.dir")
    with pytest.raises(RefexpError, match=f"^postprocess=soft_merge: .* has postprocess=nms in all jobs; {both}"):
        grow("seed=0,1", "postprocess=soft_merge")
    with pytest.raises(RefexpError, match=r"^matcher.fault=x: the sweep in .* has matcher.fault=none"):
        grow("seed=0,1", "postprocess=nms", "+matcher.fault=x")
    grow.input_size = 256
    with pytest.raises(RefexpError, match=r"^encoder.input_size=256: .* a file .* has changed; sweep.only=all repeats"):
        grow("seed=0,1", "postprocess=nms")
    assert len(grow.ran) == 1
    grow("seed=0,1", "postprocess=nms", only="all")
    assert [seed for _, seed, _ in grow.ran] == [0, 0, 1] and grow.states() == ["completed"] * 2


def test_what_is_repeated_is_said(grow, caplog):
    caplog.set_level("INFO")
    assert grow("seed=0,1", only=[0]) == [JobStatus.COMPLETED, JobStatus.FAILED]
    assert grow.states() == ["completed", "not started"]
    grow("seed=0,1,2", only=[0, 2])
    assert "1 of 3 jobs are completed" in caplog.text and "the results of #0 are replaced" in caplog.text
    assert [seed for _, seed, _ in grow.ran] == [0, 0, 2]
    with pytest.raises(RefexpError, match=r"this command has no job 7. Its jobs in .* are 0, 1"):
        grow("seed=0,1", only=[7])


def test_a_sweep_of_the_version_before_is_read(grow):
    for seed in (0, 1):
        grow(f"seed={seed}")
    content = json.loads((grow.folder / "sweep.json").read_text())
    content |= content.pop("commands")[0]
    for row in content["jobs"].values():  # its numbers could get the overrides of other jobs; their folders know better
        row["overrides"] = ["seed=1"]
    write_json(grow.folder / "sweep.json", content)
    grow("seed=0,1,2")
    assert [seed for _, seed, _ in grow.ran] == [0, 1, 2]
    assert [of.overrides for of, _ in Sweep(grow.folder).jobs()] == [["seed=0"], ["seed=1"], ["seed=2"]]


def test_a_sweep_in_the_fixtures_grows(tmp_path):
    """Its classes lay in other modules, and its configuration had fewer keys."""
    folder = Path(shutil.copytree(ROOT / "tests/fixtures/v0/sweep", tmp_path / "sweep"))
    overrides = Sweep(folder).jobs()[0][0].overrides
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = settings_of(compose("config", overrides, return_hydra_config=True))
    assert as_run(folder / "0", composed) == composed != as_run(folder / "1", composed)


def test_a_job_from_before_there_were_protocols_ran_by_the_standard_one(tmp_path):
    folder = Path(shutil.copytree(ROOT / "tests/fixtures/v0/sweep", tmp_path / "sweep"))
    overrides = [*Sweep(folder).jobs()[0][0].overrides, "protocol=published"]  # as a recipe sets it now
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = settings_of(compose("config", overrides, return_hydra_config=True))
    assert as_run(folder / "0", composed)["protocol"] == "standard" != composed["protocol"]


def test_jobs_that_still_run_are_not_started_twice(grow, monkeypatch):
    grow("seed=0,1")
    (grow.folder / "1/status.json").unlink()
    monkeypatch.setattr("refexp.folders.sweep_folder.local_state", lambda pid, host: "RUNNING")
    with pytest.raises(RefexpError, match="#1 still wait or run"):
        grow("seed=0,1")


def test_other_ranks_choose_the_jobs_of_the_first(grow, monkeypatch):
    """They write elsewhere, and rank 0 may have begun the sweep."""
    grow("seed=0")
    monkeypatch.setattr("refexp.cluster.launchers.this_rank", lambda: Rank(1, 2))
    config = OmegaConf.create({"hydra": {"sweep": {"dir": "/elsewhere"}, "overrides": {"hydra": []}}})
    assert folder_of(config) == Path("/elsewhere")
    config.hydra.overrides.hydra = [f"hydra.sweep.dir='{grow.folder}'", "hydra.sweep.dir=/elsewhere"]
    assert folder_of(config) == grow.folder


@pytest.fixture
def multirun(tmp_path, monkeypatch):
    """`multirun("seed=0,1")` -> the exit code of `refexp run -m`, all of whose jobs fail, and their overrides."""
    ran = []

    def fail(config, output, overrides) -> None:
        with job(output, overrides):
            ran.append(overrides[-2:])
            raise RefexpError("no such weights")

    for name in ("PYTHONPATH", "HYDRA_FULL_ERROR", "GOMP_SPINCOUNT"):  # the command sets them
        monkeypatch.setenv(name, "")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("refexp.command.job.run_job", fail)
    monkeypatch.setattr("refexp.show.tables.summary.summarise_sweep", lambda folder: None)
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.sweep.dir=sweep")
    return lambda *words: (refexp("run", "-m", *quiet, *words), ran)


def test_pairs_and_equal_failures(multirun, capfd):
    ended, ran = multirun("shots=1,5,10,30", "seed=3,2,1,0", "sweep.zip=[shots,seed]", "sweep.stop_after=2")
    assert (ended, ran) == (1, [["shots='1'", "seed=3"], ["shots='5'", "seed=2"]])
    said = capfd.readouterr().out
    assert "#0, #1 failed: no such weights" in said
    assert "#2, #3 stopped: not run, because 2 jobs failed: no such weights" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shots=1,5", "seed=0", "sweep.zip=[shots,seed]"], "seed has no list of values; give seed=A,B"),
        (["shots=1,5", "seed=0,1,2", "sweep.zip=[shots,seed]"], "shots has 2, seed has 3"),
        (["shots=1,5", "seed=0,1", "sweep.zip=[shots,seed]", "hydra/sweeper=basic"], "only hydra/sweeper=grid"),
        (["seed=0,1", "hydra.sweep.subdir=same"], "jobs 0 and 1 would both write to same"),
    ],
)
def test_a_mistake_is_one_line(multirun, capfd, words, message):
    assert multirun(*words) == (1, [])
    assert message in capfd.readouterr().err


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
