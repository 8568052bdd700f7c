"""Sweeps that tell the truth: every job's state, and what to do about those that are not completed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from runs import refexp

from refexp.cluster.launchers import choose
from refexp.errors import RefexpError
from refexp.folders.sweep_folder import Job, Sweep, record_of, survey

FAULTS = ("matcher._target_=faults.Faulty", "+matcher.fault=none,raise")
MENDED = """
from dataclasses import dataclass
from refexp.matchers.prototype import PrototypeMatcher
@dataclass(eq=False, kw_only=True)
class Faulty(PrototypeMatcher):
    fault: str
"""


@pytest.fixture
def sweep(folder, tmp_path):
    """`sweep("-m", ...)` -> a finished multirun on the tiny data set, and its folder."""

    def run(*more: str, out: str = "sweep") -> tuple[subprocess.CompletedProcess[str], Path]:
        done = subprocess.run(command(folder, tmp_path, *more, out=out), **where(tmp_path), timeout=600)
        return done, tmp_path / out

    return run


def command(folder, tmp_path: Path, *more: str, out: str = "sweep") -> list[str]:
    common = [
        f"hydra.sweep.dir={tmp_path / out}",
        f"store.dir={tmp_path / 'store'}",
        "vis.limit=0",
        "runtime.threads=1",
    ]
    return [sys.executable, str(ROOT / "main.py"), "-m", *folder.overrides(), *common, *more]


def where(tmp_path: Path) -> dict:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "COLUMNS": "160"}
    return {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}


def states(folder: Path) -> list[str]:
    return [record.state for record in survey(Sweep(folder))]


def test_a_failed_job_hides_no_other_and_can_be_run_again(sweep, tmp_path, monkeypatch, capfd):
    done, out = sweep(*FAULTS, "seed=0,1")
    assert done.returncode == 1
    assert states(out) == ["completed", "failed"] * 2
    assert "#1, #3 failed: ValueError: this matcher is broken on purpose" in done.stdout
    assert f"refexp sweep retry {shlex.quote(str(out))}" in done.stdout
    status = json.loads((out / "3/status.json").read_text())
    assert status["state"] == "failed" and "in match" in status["error"]["traceback"]
    assert "seed=1" in status["overrides"] and status["restarts"] == 0
    first = (out / "0/status.json").stat().st_mtime

    # The reason is gone: only what failed runs again, in its own folder.
    mended = tmp_path / "mended"
    mended.mkdir()
    (mended / "faults.py").write_text(MENDED)
    monkeypatch.setenv("PYTHONPATH", f"{mended}{os.pathsep}{ROOT}")
    assert refexp("sweep", "retry", str(out)) == 0
    assert states(out) == ["completed"] * 4
    assert (out / "0/status.json").stat().st_mtime == first
    assert refexp("sweep", "status", str(out)) == 0
    assert "completed" in capfd.readouterr().out


def percent_of(job: Path) -> str:
    return f"{100 * json.loads((job / 'metrics.json').read_text())['metrics']['bbox/nAP']:.1f}"


def test_jobs_stay_together_and_side_by_side_give_the_serial_results(folder, tmp_path):
    """The sweep's folder is called after the data set and the name, which may be what the jobs differ in."""
    found = []
    for launcher in ("serial", "local_jobs"):
        here = tmp_path / launcher
        here.mkdir()
        given = command(folder, tmp_path, "name=a,b", "seed=0,1", f"hydra/launcher={launcher}")
        done = subprocess.run([o for o in given if "sweep.dir" not in o], **where(here), timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        (out,) = (path.parent for path in (here / "outputs").rglob("sweep.json"))
        jobs = [out / number for number in "0123"]
        assert states(out) == ["completed"] * 4
        assert sorted(path.parent for path in (here / "outputs").rglob("metrics.json")) == jobs
        assert not list(here.rglob("%j"))
        assert "per class" in (jobs[0] / "run.log").read_text() and "per class" not in done.stdout
        assert launcher != "serial" or done.stdout.count(f"box nAP {percent_of(jobs[0])} in {jobs[0]}\n") == 1
        found.append([(job / "detections.json").read_bytes() for job in jobs])
    assert found[0] == found[1] and found[0][0] != found[0][2]  # the seed is outermost


def test_a_killed_driver_is_seen_and_taken_up_again(folder, tmp_path, monkeypatch):
    flag, out = tmp_path / "waiting", tmp_path / "sweep"
    waits = ("matcher._target_=faults.Faulty", "+matcher.fault=wait", f"+matcher.flag={flag}")
    driver = subprocess.Popen(
        command(folder, tmp_path, "seed=0,1", *waits),
        cwd=tmp_path, env=where(tmp_path)["env"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(flag.exists)
    assert states(out) == ["running", "waiting"]
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert states(out) == ["died", "not started"]
    monkeypatch.setenv("PYTHONPATH", where(tmp_path)["env"]["PYTHONPATH"])
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # for which Wait does not wait
    assert refexp("sweep", "retry", str(out)) == 0
    assert states(out) == ["completed", "completed"]


def until(true, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("status", "scheduled", "state", "message"),
    [
        (None, "PENDING", "waiting", ""),
        (None, "CANCELLED", "not started", "job 7 ended before the run started; SLURM says CANCELLED"),
        ("running", "RUNNING", "running", ""),
        ("running", "PENDING", "waiting", ""),  # queued again
        ("stopped", "PENDING", "waiting", ""),
        ("stopped", "CANCELLED", "stopped", "preempted"),
        ("running", "GONE", "died", "job 7 on here exited without writing a status: killed or lost"),
        ("running", "OUT_OF_MEMORY", "died", "raise hydra.launcher.mem_gb"),
        ("running", "TIMEOUT", "died", "SLURM says TIMEOUT"),
        ("completed", "RUNNING", "completed", ""),
        ("failed", "COMPLETED", "failed", "preempted"),
    ],
)
def test_a_job_s_own_word_comes_before_the_scheduler_s(status, scheduled, state, message, tmp_path):
    left = status and {"state": status, "host": "here", "error": {"message": "preempted"}}
    record = record_of(tmp_path, Job(0, [], "0"), left, scheduled, "7")
    assert record.state == state and message in record.message
    assert record.alive == (state in ("waiting", "running"))


def test_choose(tmp_path):
    jobs = [Job(number, [], str(number)) for number in range(3)]
    (tmp_path / "1").mkdir()
    (tmp_path / "1/status.json").write_text('{"state": "completed"}')
    sweep = Sweep(tmp_path)
    assert choose(sweep, jobs, "all") == jobs
    assert choose(sweep, jobs, "unfinished") == [jobs[0], jobs[2]]
    assert choose(sweep, jobs, [2]) == [jobs[2]]
    with pytest.raises(RefexpError, match="no job 5"):
        choose(sweep, jobs, [5])


def test_a_folder_that_is_no_sweep_s(tmp_path, capsys):
    assert refexp("sweep", "status", str(tmp_path)) == 1
    assert "is not the folder of a sweep" in capsys.readouterr().err


def test_cancel_leaves_other_programs_alone(tmp_path):
    """The pid of a job that ended may belong to another program by now."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        jobs = {"0": {"id": str(other.pid), "number": 0, "overrides": [], "folder": "0"}}
        content = {"command": [], "cwd": ".", "jobs": jobs, "launcher": "local_jobs", "extraction": []}
        content |= {"host": socket.gethostname(), "pid": other.pid, "started": ""}
        (tmp_path / "sweep.json").write_text(json.dumps(content))
        refexp("sweep", "cancel", tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
