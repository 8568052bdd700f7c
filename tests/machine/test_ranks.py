"""Several ranks: the same bytes as one, and an end with a reason when one of them fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import free_ports
from conftest import ROOT, Folder
from runs import MAIN, outputs, ranks


@pytest.fixture(scope="module")
def few(tmp_path_factory, drawn) -> Folder:
    return Folder(tmp_path_factory.mktemp("few") / "data", drawn)


def arguments(few: Folder, output: Path, *more: str) -> list[str]:
    return [*few.overrides(output), f"store.dir={output}-store", "vis.limit=1", *more]


def results(output: Path) -> tuple[bytes, dict, bytes]:
    metrics = json.loads((output / "metrics.json").read_text())["metrics"]
    return (output / "detections.json").read_bytes(), metrics, (output / "references.json").read_bytes()


@pytest.fixture(scope="module")
def alone(few, tmp_path_factory) -> tuple[bytes, dict, bytes]:
    folder = tmp_path_factory.mktemp("alone")
    (process,) = ranks(1, arguments(few, folder / "out", "runtime.threads=1"), folder)
    said = outputs([process])
    assert process.returncode == 0, said
    return results(folder / "out")


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
    """A heartbeat in progress while the interpreter exits once ended one rank in some hundreds with SIGABRT."""
    script = tmp_path / "restless.py"
    script.write_text(
        "from refexp.machine import ranks as distributed\n"
        "distributed.BEAT_SECONDS = 0.0\n"
        "with distributed.join(silence=60).run() as ranks:\n"
        "    assert ranks.exchange(ranks.rank) == [0, 1, 2, 3]\n"
        "    assert ranks.gather(ranks.rank) == ([0, 1, 2, 3] if ranks.first else None)\n"
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
    more = ("matcher._target_=faults.Faulty", "+matcher.fault=kill", "+matcher.rank=1", "runtime.silence=8")
    processes = ranks(2, arguments(few, tmp_path / "out", *more), tmp_path)
    processes[1].wait(timeout=240)
    start = time.monotonic()
    said = outputs(processes)
    assert time.monotonic() - start < 120
    assert [process.returncode for process in processes] == [1, -9]
    assert "rank 1 has sent no heartbeat for 8 s" in said[0]


def test_a_mistake_is_told_once(few, tmp_path):
    processes = ranks(2, arguments(few, tmp_path / "out", "dataset.classes=[nonsense]"), tmp_path)
    said = outputs(processes)
    assert [process.returncode for process in processes] == [1, 1]
    assert said[0].count("class 'nonsense' is not in the annotations") == 1 and said[1] == ""


def started(tmp_path: Path, script: str, rank: int, count: int, port: int) -> subprocess.Popen[str]:
    """One rank that runs these lines, after which it meets the others."""
    (tmp_path / "rank.py").write_text(
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests that a shell started with & ignore it
        "from refexp.command import job as cli\n"
        "from refexp.machine import ranks as distributed\n"
        f"{script}\n"
        "def main():\n"
        "    with cli.terminable(), distributed.join(silence=60).run() as ranks:\n"
        "        print(ranks.gather(ranks.rank))\n"
        "import sys; sys.exit(cli.command_line(main))\n"
    )
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "RANK": str(rank)}
    return subprocess.Popen(
        [sys.executable, "rank.py"], cwd=tmp_path, env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGTERM), (1, signal.SIGINT)])
def test_a_rank_says_that_it_waits_and_ends_when_told_to(rank, number, tmp_path):
    (port,) = free_ports(1)
    process = started(tmp_path, "distributed.PRINT_AFTER = distributed.PRINT_EVERY = 1.0", rank, 2, port)
    expected = (
        f"rank {rank} of 2 waits for the others at 127.0.0.1:{port}, up to 120 s; Ctrl-C or SIGTERM stops it (1 s so"
    )
    assert expected in process.stderr.readline()
    assert "(2 s so far)" in process.stderr.readline()
    process.send_signal(number)
    start = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - start < 5
    assert process.returncode == (143 if number == signal.SIGTERM else 130)


def test_main_says_that_it_waits_and_ends_when_told_to(few, tmp_path):
    process, never = ranks(2, arguments(few, tmp_path / "out"), tmp_path)
    never.kill()
    never.communicate()
    line = next(line for line in process.stdout if "waits" in line)
    assert line.startswith("rank 0 of 2 waits for the others at 127.0.0.1:") and "SIGTERM stops it (5 s" in line
    process.terminate()
    start = time.monotonic()
    process.communicate(timeout=20)
    assert time.monotonic() - start < 5 and process.returncode == 143
    assert json.loads((tmp_path / "out/status.json").read_text())["state"] == "stopped"


@pytest.mark.slow
def test_a_program_that_is_no_rank_does_not_hold_one(tmp_path):
    """torch waits for its answer for ever, in C++ code."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = started(tmp_path, "distributed.JOIN_SECONDS = 7.0", 1, 2, port)
        said = process.communicate(timeout=60)[1]
        assert f"error: rank 1 of 2 found no rank 0 at 127.0.0.1:{port} within 7 s. " in said
        assert "Check that all ranks are started" in said
        first = started(tmp_path, "", 0, 2, port)
        said = first.communicate(timeout=60)[1]
        assert f"error: the ranks cannot meet at 127.0.0.1:{port}: " in said and "that the port is free" in said
    assert process.returncode == first.returncode == 1


@pytest.mark.slow
def test_ranks_that_do_not_come_are_named(tmp_path):
    (port,) = free_ports(1)
    processes = [started(tmp_path, "distributed.JOIN_SECONDS = 15.0", rank, 4, port) for rank in (0, 2)]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert f"error: rank 0 of 4 found no rank 1, 3 at 127.0.0.1:{port} within 15 s." in said[0]


@pytest.mark.slow
def test_the_same_rank_twice_is_refused(tmp_path):
    (port,) = free_ports(1)
    processes = [started(tmp_path, "distributed.JOIN_SECONDS = 20.0", rank, 3, port) for rank in (0, 1, 1)]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert any(f"error: there is another rank 1 of 3 at 127.0.0.1:{port}" in text for text in said[1:])
    assert "found no rank 2 at" in said[0]


def test_results_of_any_size_arrive(tmp_path):
    (port,) = free_ports(1)
    script = (
        "def gather(self, value, gather=distributed.Ranks.gather):\n"
        "    values = gather(self, bytes([self.rank]) * (9_000_000 * self.rank))\n"
        "    return values and [(len(value), value == bytes([i]) * len(value)) for i, value in enumerate(values)]\n"
        "distributed.Ranks.gather = gather"
    )
    processes = [started(tmp_path, script, rank, 3, port) for rank in range(3)]
    said = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, said
    assert said[0][0] == "[(0, True), (9000000, True), (18000000, True)]\n"


@pytest.mark.slow
def test_a_rank_stuck_in_c_code_leaves_when_the_run_has_failed(tmp_path):
    (port,) = free_ports(1)
    script = (
        "import ctypes\n"
        "def gather(self, value):\n"
        "    if self.first:\n"
        "        raise ValueError('broken on purpose')\n"
        "    lock = ctypes.create_string_buffer(64)\n"
        "    for _ in range(2):\n"
        "        ctypes.CDLL(None).pthread_mutex_lock(lock)  # no signal ends the second\n"
        "distributed.Ranks.gather = gather"
    )
    processes = [started(tmp_path, script, rank, 2, port) for rank in range(2)]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert "broken on purpose" in said[0]
    assert "error: rank 0 on" in said[1] or "error: the connection to rank 0 is lost" in said[1]


@pytest.mark.slow
def test_a_rank_stuck_with_python_s_lock_does_not_hold_the_others(tmp_path):
    (port,) = free_ports(1)
    script = (
        "import ctypes\n"
        "def gather(self, value, gather=distributed.Ranks.gather):\n"
        "    self.silence = 6\n"
        "    if not self.first:\n"
        "        lock = ctypes.create_string_buffer(64)\n"
        "        for _ in range(2):\n"
        "            ctypes.PyDLL(None).pthread_mutex_lock(lock)\n"
        "    return gather(self, value)\n"
        "distributed.Ranks.gather = gather"
    )
    processes = [started(tmp_path, script, rank, 2, port) for rank in range(2)]
    said = processes[0].communicate(timeout=60)[1]
    processes[1].kill()
    processes[1].communicate()
    assert processes[0].returncode == 1
    assert "rank 0 of 2 waits for the results of the others; Ctrl-C or SIGTERM stops it" in said
    assert "error: rank 1 has sent no heartbeat for 6 s" in said
