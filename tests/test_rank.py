"""Which rank a process takes itself for: from torchrun's or srun's variables, refused if they cannot be true."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from refexp import rank
from refexp.errors import RefexpError
from refexp.rank import Rank, meeting_point, restarts, scheduler_id, this_rank

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "x",
    "MASTER_PORT": "29500",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_JOB_ID": "12",
}  # fmt: skip
END_TORCHRUN = ": unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT, or start with torchrun."
END_SRUN = ": unset SLURM_STEP_NUM_TASKS, or start with srun."


@pytest.fixture
def given(monkeypatch):
    """`given({...})`: these variables, and none of other ranks."""

    def set_all(environment: dict[str, str]) -> None:
        for name in list(os.environ):
            if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in TORCHRUN:
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        this_rank.cache_clear()

    yield set_all
    monkeypatch.undo()
    this_rank.cache_clear()


def without(environment: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Rank()),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Rank()),  # the batch script itself
        ({"SLURM_JOB_ID": "3", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-2]"}, Rank()),  # salloc
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, Rank()),
        ({"MASTER_ADDR": "x", "MASTER_PORT": "29500"}, Rank()),  # a batch script exports them for another program
        (SRUN, Rank(5, 8, 1, 4, "srun")),
        (SRUN | {"MASTER_ADDR": "x", "MASTER_PORT": "29500", "WORLD_SIZE": "8"}, Rank(5, 8, 1, 4, "srun")),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "1,2(x3),1", "SLURM_LOCALID": "1"}, Rank(5, 8, 1, 2, "srun")),
        (TORCHRUN, Rank(3, 4, 1, 2, "torchrun")),
        (TORCHRUN | SRUN, Rank(3, 4, 1, 2, "torchrun")),
        (TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
         Rank(starter="torchrun")),
        ({name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")},
         Rank(3, 4, 0, 1, "torchrun")),
    ],
)  # fmt: skip
def test_rank_is_read_from_the_starter(environment, expected, given):
    given(environment)
    assert this_rank() == expected


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"RANK": "", "WORLD_SIZE": "", "MASTER_ADDR": ""},
         "WORLD_SIZE='' is not a whole number from 1 to 2147483647 (beside RANK='', MASTER_ADDR=''): "
         "unset RANK WORLD_SIZE MASTER_ADDR, or start with torchrun."),
        ({"RANK": "0"}, "WORLD_SIZE is missing (beside RANK='0'): unset RANK, or start with torchrun."),
        ({"WORLD_SIZE": "2"}, "RANK is missing (beside WORLD_SIZE='2'): unset WORLD_SIZE, or start with torchrun."),
        ({"LOCAL_RANK": "0"}, "WORLD_SIZE is missing (beside LOCAL_RANK='0'): unset LOCAL_RANK"),
        *((without(TORCHRUN, name), f"{name} is missing") for name in TORCHRUN),
        *((TORCHRUN | {"RANK": value}, f"RANK={value!r} is not a whole number from 0 to 3")
          for value in ("", " ", "x", "1.0", "-1", "4", "1_0", "٣", "9" * 30)),
        *((TORCHRUN | {"WORLD_SIZE": value}, f"WORLD_SIZE={value!r} is not a whole number from 1 to 2147483647")
          for value in ("0", "-2", "9" * 10)),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "LOCAL_RANK='2' is not a whole number from 0 to 1"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "5"}, "LOCAL_WORLD_SIZE='5' is not a whole number from 1 to 4"),
        (TORCHRUN | {"MASTER_ADDR": " "}, "MASTER_ADDR=' ' is not a name"),
        *((TORCHRUN | {"MASTER_PORT": value}, f"MASTER_PORT={value!r} is not a whole number from 1 to 65535")
          for value in ("", "0", "65536", "tcp")),
        *((without(SRUN, name), f"{name} is missing (beside SLURM_STEP_NUM_TASKS='8')")
          for name in SRUN if name != "SLURM_STEP_NUM_TASKS"),
        *((SRUN | {"SLURM_STEP_NUM_TASKS": value}, f"SLURM_STEP_NUM_TASKS={value!r} is not a whole number")
          for value in ("", "0", "many")),
        (SRUN | {"SLURM_PROCID": "8"}, "SLURM_PROCID='8' is not a whole number from 0 to 7"),
        (SRUN | {"SLURM_LOCALID": "4"}, "SLURM_LOCALID='4' is not a whole number from 0 to 3"),
        *((SRUN | {"SLURM_STEP_TASKS_PER_NODE": value}, f"SLURM_STEP_TASKS_PER_NODE={value!r} is not a list such as")
          for value in ("", "0", "4(x2", "4,,4", "4(2)", "1" * 60 + "!")),
        (SRUN | {"SLURM_STEP_NODELIST": ""}, "SLURM_STEP_NODELIST='' is not a name"),
        (SRUN | {"SLURM_JOB_ID": "none"}, "SLURM_JOB_ID='none' is not a whole number"),
        ({"SLURM_ARRAY_JOB_ID": "5"},
         "SLURM_ARRAY_TASK_ID is missing (beside SLURM_ARRAY_JOB_ID='5'): unset SLURM_ARRAY_JOB_ID, or start with "),
        ({"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": ""}, "SLURM_ARRAY_TASK_ID='' is not a whole number"),
        ({"SLURM_RESTART_COUNT": "x"}, "SLURM_RESTART_COUNT='x' is not a whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_refused_by_name(environment, problem, given):
    given(environment)
    start = time.monotonic()
    with pytest.raises(RefexpError) as refused:
        this_rank()
    said = str(refused.value)
    assert time.monotonic() - start < 1
    assert said.startswith(problem) and "\n" not in said
    end = END_TORCHRUN if TORCHRUN.keys() <= environment.keys() else "or start with"
    assert (END_SRUN if SRUN["SLURM_STEP_NODELIST"] in environment.values() else end) in said


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "3", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29555"},
        {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"},
        {"SLURM_ARRAY_JOB_ID": "5"},
    ],
)
def test_the_command_refuses_them_at_once(environment, tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "main.py")],
        cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=5, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and ": unset " in line
    assert not list(tmp_path.iterdir())


def test_the_job_s_name(given):
    given({"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "1"})
    assert (scheduler_id(), restarts()) == ("5_2", 1)
    given({"SLURM_JOB_ID": "7"})
    assert (scheduler_id(), restarts()) == ("7", 0)
    given({})
    assert (scheduler_id(), restarts()) == (None, 0)


def scontrol(script: str, tmp_path: Path, monkeypatch) -> None:
    """A SLURM that answers as this script does."""
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_torchrun_says_where_ranks_meet(given):
    given(TORCHRUN)
    assert meeting_point("torchrun") == ("x", 29500)


def test_slurm_says_where_ranks_meet(given, tmp_path, monkeypatch):
    answer = '[ "$2" = hostnames ] && printf "n1\\nn2\\n" || echo "NodeName=$4 NodeAddr=10.0.0.1 State=IDLE"'
    given(SRUN | {"SLURM_STEP_ID": "3"})
    scontrol(answer, tmp_path, monkeypatch)
    assert meeting_point("srun") == ("10.0.0.1", 20000 + 12 * 7 + 3)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("sleep 30", "`scontrol show hostnames n[1-2]` failed: no answer within 1 s. Check SLURM"),
        ("exit 0", "`scontrol show hostnames n[1-2]` failed: it answered nothing. Check SLURM"),
        ("echo 'error: no controller' >&2; exit 1", "`scontrol show hostnames n[1-2]` failed: error: no controller."),
        (
            '[ "$2" = hostnames ] && echo n1 || echo "Node $4 unknown"',
            "`scontrol --oneliner show node n1` failed: Node",
        ),
        (None, "`scontrol show hostnames n[1-2]` failed: [Errno 2] No such file or directory: 'scontrol'. Check SLURM"),
    ],
)
def test_a_slurm_that_does_not_answer_is_named(script, why, given, tmp_path, monkeypatch):
    given(SRUN)
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        scontrol(script, tmp_path, monkeypatch)
    assert rank.SCONTROL_SECONDS == 5
    monkeypatch.setattr(rank, "SCONTROL_SECONDS", 1.0)
    start = time.monotonic()
    with pytest.raises(RefexpError) as refused:
        meeting_point("srun")
    assert why in str(refused.value) and "\n" not in str(refused.value)
    assert time.monotonic() - start < 5
