"""Several ranks: the same bytes as one, and an end with a reason when one of them fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import free_ports
from conftest import ROOT, Folder

from refexp.machine.ranks import Place, place

MAIN = ROOT / "main.py"


@pytest.fixture
def few(tmp_path, drawn) -> Folder:
    return Folder(tmp_path / "data", drawn)


def ranks(count: int, arguments: list[str], tmp_path: Path, script: Path = MAIN) -> list[subprocess.Popen[str]]:
    """`count` processes as srun or torchrun would start them, but with nobody who watches over them."""
    (port,) = free_ports(1)
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "COLUMNS": "160",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(count)
    ]


def outputs(processes: list[subprocess.Popen[str]], seconds: float = 240) -> list[str]:
    return [process.communicate(timeout=seconds)[0] for process in processes]


def arguments(few: Folder, output: Path, *more: str) -> list[str]:
    return [*few.overrides(output), f"store.dir={output}-store", "vis.limit=1", *more]


def results(output: Path) -> tuple[bytes, dict, bytes]:
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    return (output / "detections.json").read_bytes(), metrics, (output / "references.json").read_bytes()


@pytest.fixture
def alone(few, command, tmp_path) -> tuple[bytes, dict, bytes]:
    done = command(*arguments(few, tmp_path / "alone", "runtime.threads=1"))
    assert done.returncode == 0, done.stderr
    return results(tmp_path / "alone")


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow), 5])
def test_any_number_of_ranks_gives_the_same_bytes(count, few, alone, tmp_path):
    processes = ranks(count, arguments(few, tmp_path / "out", "runtime.threads=1"), tmp_path)
    said = outputs(processes)
    assert [process.returncode for process in processes] == [0] * count, said
    assert results(tmp_path / "out") == alone
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["ranks"] == count
    assert metrics["stages"]["extract"]["items"] == -(-4 // count)  # of 4 targets, rank 0 takes its share
    assert all(text == "" for text in said[1:])  # rank 0 speaks for all
    assert not list(tmp_path.glob("outputs*"))


def test_no_rank_aborts_at_its_end(tmp_path):
    """A sign of life under way while the interpreter ends once ended one rank in some hundreds with SIGABRT."""
    script = tmp_path / "restless.py"
    script.write_text(
        "from refexp import distributed\n"
        "distributed.BEAT_SECONDS = 0.0\n"
        "with distributed.join(silence=60).run() as ranks:\n"
        "    ranks.gather(ranks.rank)\n"
    )
    processes = ranks(4, [], tmp_path, script)
    said = outputs(processes)
    assert [process.returncode for process in processes] == [0] * 4, said


def test_torchrun(few, alone, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(MAIN),
         *arguments(few, tmp_path / "out", "runtime.threads=1")],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=240,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "out") == alone


def test_an_error_on_another_rank_is_told_by_rank_0(few, tmp_path):
    more = ("matcher._target_=faults.Faulty", "+matcher.fault=raise", "+matcher.rank=1")
    processes = ranks(2, arguments(few, tmp_path / "out", *more), tmp_path)
    said = outputs(processes)
    assert [process.returncode for process in processes] == [1, 1]
    assert "rank 1 on" in said[0] and "in match" in said[0] and "this matcher is broken on purpose" in said[0]
    status = json.loads((tmp_path / "out/status.json").read_text())
    assert status["state"] == "failed" and "this matcher is broken on purpose" in status["error"]["message"]
    assert not (tmp_path / "out/detections.json").exists()


def test_a_killed_rank_ends_the_run(few, tmp_path):
    more = ("matcher._target_=faults.Faulty", "+matcher.fault=kill", "+matcher.rank=1", "runtime.silence=15")
    processes = ranks(2, arguments(few, tmp_path / "out", *more), tmp_path)
    processes[1].wait(timeout=240)
    start = time.monotonic()
    said = outputs(processes)
    assert time.monotonic() - start < 120
    assert [process.returncode for process in processes] == [1, -9]
    assert "rank 1 has given no sign of life for 15 s" in said[0]


def test_a_mistake_is_told_once(few, tmp_path):
    processes = ranks(2, arguments(few, tmp_path / "out", "dataset.classes=[nonsense]"), tmp_path)
    said = outputs(processes)
    assert [process.returncode for process in processes] == [1, 1]
    assert said[0].count("class 'nonsense' is not in the annotations") == 1 and said[1] == ""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Place()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Place()),  # the batch script itself
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, Place()),
        (
            {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1",
             "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
            Place(5, 8, 1, 4, "srun"),
        ),
        (
            {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x"},
            Place(3, 4, 1, 2, "torchrun"),
        ),
    ],
)  # fmt: skip
def test_place_is_read_from_the_starter(environment, expected, monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place.cache_clear()
    try:
        assert place() == expected
    finally:
        monkeypatch.undo()
        place.cache_clear()
