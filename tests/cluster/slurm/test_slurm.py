"""The real thing: sweeps on a SLURM of this machine (cluster.py), with jobs that fail in every way jobs fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster, why_not
from conftest import ROOT, Folder
from runs import refexp

from refexp.folders.sweep_folder import Sweep, survey

pytestmark = [pytest.mark.slurm, pytest.mark.skipif(why_not() is not None, reason=why_not() or "")]

SMALL = ("hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=2", "hydra.launcher.ablate.cpus_per_task=1",
         "hydra.launcher.ablate.mem_gb=2", "vis.limit=0", "runtime.threads=1")  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    before = dict(os.environ)
    try:
        cluster.up()
        os.environ |= cluster.env
        yield cluster
    finally:
        cluster.down()
        os.environ.clear()
        os.environ |= before


class Driver:
    """A sweep's driver process and its folder."""

    def __init__(self, data: Folder, root: Path, overrides: tuple[str, ...], starter: tuple[str, ...] = ()) -> None:
        self.out, self.root = root / "sweep", root
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "COLUMNS": "200"}
        self.process = subprocess.Popen(
            [*starter, sys.executable, str(ROOT / "main.py"), "-m", *data.overrides(), "hydra/launcher=slurm", *SMALL,
             f"hydra.sweep.dir={self.out}", f"store.dir={root / 'store'}", *overrides],
            cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def finish(self, seconds: float = 300) -> str:
        return self.process.communicate(timeout=seconds)[0]

    def states(self) -> list[str]:
        return [record.state for record in survey(Sweep(self.out))]

    def job_id(self, number: int) -> str:
        return Sweep(self.out).jobs()[number][1]

    def status(self, job: str) -> dict:
        return json.loads((self.out / job / "status.json").read_text())


@pytest.fixture
def drive(cluster, folder, tmp_path):
    drivers = []

    def start(*overrides: str, starter: tuple[str, ...] = ()) -> Driver:
        drivers.append(Driver(folder, tmp_path, overrides, starter))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.process.kill()
    cluster.run("scancel", "--user=root", check=False)


def until(true, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.2)


def test_a_sweep_extracts_first_and_packs_its_jobs(drive, cluster, command, folder, tmp_path):
    driver = drive("shots=1,2,3", "seed=0,1", "sweep.pack=3", "sweep.extract_jobs=2")
    said = driver.finish()
    assert driver.process.returncode == 0, said
    assert driver.states() == ["completed"] * 6 and "completed" in said
    ids = Sweep(driver.out).read()
    extraction, second = ids["extraction"]
    assert extraction.split("_")[0] == second.split("_")[0]  # an array
    assert len({id_ for _, id_ in Sweep(driver.out).jobs()}) == 2
    shown = cluster.run("scontrol", "show", "job", extraction)
    assert "gres:gpu:1" in shown or "gres/gpu=1" in shown
    for job in sorted({driver.job_id(0), driver.job_id(3)}):
        shown = cluster.run("scontrol", "show", "job", job)
        assert "gpu" not in shown
    assert "stage=ablate" in driver.status("5")["overrides"]
    logs = [(driver.out / str(number) / "run.log").read_text() for number in range(6)]
    passes = ["3 jobs read the same entries: one pass for all" in text for text in logs]
    assert passes == [True, False, False, True, False, False]  # each entry is read twice, not six times
    alone = command(
        *folder.overrides(tmp_path / "alone"), "shots=3", "seed=1", "runtime.threads=1", "vis.limit=0",
        f"store.dir={tmp_path / 'other-store'}",
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "alone/detections.json").read_bytes() == (driver.out / "5/detections.json").read_bytes()


def test_every_way_of_failing_is_told(drive, cluster, tmp_path, capfd):
    flag = tmp_path / "waiting"
    driver = drive("matcher._target_=faults.Faulty", "+matcher.fault=none,raise,kill,wait", f"+matcher.flag={flag}")
    until(flag.exists)
    cluster.run("scancel", driver.job_id(3))
    said = driver.finish()
    assert driver.process.returncode == 1
    assert driver.states() == ["completed", "failed", "died", "died"]
    assert "#1 failed: ValueError: this matcher is broken on purpose" in said
    assert f"#2 died: job {driver.job_id(2)} on" in said
    assert f"#3 died: job {driver.job_id(3)} on" in said and "SLURM says CANCELLED" in said
    assert f"refexp sweep retry {driver.out}" in said
    assert "in match" in driver.status("1")["error"]["traceback"]
    assert refexp("sweep", "status", str(driver.out)) == 1


def test_preempted_it_goes_on_in_the_same_folder(drive, cluster, tmp_path):
    flag = tmp_path / "waiting"
    driver = drive(
        "matcher._target_=faults.Faulty", "+matcher.fault=wait", f"+matcher.flag={flag}", "seed=0,1", "sweep.pack=2",
        "hydra.launcher.timeout_min=30", "hydra.launcher.ablate.timeout_min=30",
    )  # fmt: skip
    until(flag.exists)
    job = driver.job_id(0)
    cluster.run("scancel", "--signal=USR2", job)
    until(lambda: "PENDING" in cluster.run("squeue", "-h", "-j", job, "-o", "%T", check=False))
    assert driver.states() == ["waiting", "waiting"]
    time.sleep(3)  # SLURM refuses to start a job again in the second in which its old credential was revoked
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now")  # it holds a requeued job for two minutes
    said = driver.finish()
    assert driver.process.returncode == 0, said
    assert driver.states() == ["completed", "completed"]
    assert driver.status("0")["restarts"] == 1 and driver.status("0")["job_id"] == job
    assert "2 jobs read the same entries" in (driver.out / "0/run.log").read_text()


def test_a_failed_extraction_is_told_as_the_reason(drive):
    driver = drive("proposer.image_size=1024,256", "encoder.input_size=512", "dataset.classes=[ladybird],[nonsense]")
    said = driver.finish()
    assert driver.process.returncode == 1
    assert driver.states() == ["completed", "failed"] * 2
    assert "#1, #3 failed: extraction: dataset.classes: class 'nonsense' is not in the annotations" in said


def test_two_nodes_with_two_ranks_each_give_the_same_bytes(drive, command, folder, tmp_path):
    driver = drive(
        "seed=0", "sweep.extract=shared", "hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=2",
        "hydra.launcher.gpus_per_node=0",
    )  # fmt: skip
    said = driver.finish()
    assert driver.process.returncode == 0, said
    metrics = json.loads((driver.out / "0/metrics.json").read_text())
    assert metrics["ranks"] == 4
    alone = command(*folder.overrides(tmp_path / "alone"), "runtime.threads=1", f"store.dir={tmp_path / 'other'}")
    assert alone.returncode == 0, alone.stderr
    single = json.loads((tmp_path / "alone/metrics.json").read_text())
    assert metrics["metrics"] == single["metrics"]
    assert (tmp_path / "alone/detections.json").read_bytes() == (driver.out / "0/detections.json").read_bytes()


def test_more_gpus_than_there_are_is_one_clear_line(drive):
    driver = drive("seed=0,1", "hydra.launcher.gpus_per_node=99")
    said = driver.finish(180)
    assert driver.process.returncode == 1
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "slurm refused the job" in line and "gpus_per_node=99" in line and "can never start" in line
    assert "Traceback" not in said


def test_a_killed_driver_s_sweep_is_collected(drive, capfd):
    driver = drive("seed=0,1")
    until(lambda: (driver.out / "sweep.json").exists() and Sweep(driver.out).jobs()[1][1] is not None)
    driver.process.send_signal(signal.SIGKILL)
    driver.process.wait()
    assert refexp("sweep", "collect", str(driver.out)) == 0
    assert driver.states() == ["completed", "completed"]
    assert "completed" in capfd.readouterr().out


def test_detached(drive, capfd):
    driver = drive("seed=0", "sweep.detach=true")
    said = driver.finish(180)
    assert driver.process.returncode == 0 and f"refexp sweep collect {driver.out}" in said
    assert refexp("sweep", "cancel", str(driver.out)) == 1
    until(lambda: driver.states() == ["not started"], 30)


def test_a_driver_in_an_allocation_does_not_hand_on_its_requests(drive):
    driver = drive("seed=0", starter=("salloc", "-n1", "-c1", "--mem-per-cpu=600"))
    said = driver.finish()
    assert driver.process.returncode == 0, said
    assert driver.states() == ["completed"]
