"""Work in forked processes: every number once, errors arrive, and no process outlives its parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from refexp.errors import RefexpError
from refexp.machine import workers
from refexp.machine.processes import is_alive
from refexp.machine.workers import FEWEST, spread


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, FEWEST * 3 + 1])
def test_every_number_is_worked_on_once(processes, count):
    seen = {}
    assert sorted(spread(lambda number: seen.setdefault(number, number * 2), count, processes)) == [
        (number, number * 2) for number in range(count)
    ]


def test_several_processes_do_the_work():
    found = dict(spread(lambda number: (time.sleep(0.05), os.getpid())[1], 32, 2))
    assert found.pop(0) == os.getpid() and len(set(found.values()) - {os.getpid()}) == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_arrives(processes):
    def work(number: int) -> int:
        if number == 17:
            raise LookupError("seventeen")
        return number

    with pytest.raises(LookupError, match="seventeen"):
        list(spread(work, 32, processes))


def test_a_killed_process_ends_the_work():
    with pytest.raises(RefexpError, match=r"killed, perhaps for lack of memory: set fewer runtime.workers"):
        list(spread(lambda number: os.kill(os.getpid(), 9) if number == 20 else number, 32, 2))


def test_processes_end_with_a_killed_parent(tmp_path):
    script = f"""
import os, pathlib, time
from refexp.machine.workers import spread
def work(number):
    if number == 0:
        return
    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(60)
list(spread(work, 32, 2))
"""
    parent = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)})
    until = time.monotonic() + 60
    while len(started := [int(path.name) for path in Path(tmp_path).iterdir()]) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(map(is_alive, started)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(started) == 2 and not any(map(is_alive, started))


def test_without_semaphores_this_process_does_it(monkeypatch, caplog):
    def refuse(*given: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refuse)
    assert dict(spread(lambda number: os.getpid(), 32, 2)) == dict.fromkeys(range(32), os.getpid())
    assert "no semaphores ([Errno 13] Permission denied)" in caplog.text
