"""Which device a run gets, and what it says where that is not there."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

import refexp
from refexp.config.building import build
from refexp.errors import RefexpError
from refexp.experiment import run as experiment
from refexp.machine import runtime
from refexp.machine.runtime import Runtime
from refexp.rank import Rank


@pytest.fixture
def machine(monkeypatch):
    """`machine(gpus, local_rank)`: a machine with so many GPUs, seen by one of its ranks."""

    def pretend(gpus: int, local_rank: int = 0) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(runtime, "this_rank", lambda: Rank(local_rank, 8, local_rank, 1))

    return pretend


@pytest.mark.parametrize(
    ("device", "gpus", "local_rank", "expected"),
    [
        ("auto", 0, 0, "cpu"), ("auto", 2, 0, "cuda:0"), ("auto", 2, 1, "cuda:1"), ("cpu", 2, 1, "cpu"),
        ("cuda", 1, 0, "cuda:0"), ("cuda", 2, 3, "cuda:1"), ("cuda:1", 2, 0, "cuda:1"), ("cuda:1", 2, 4, "cuda:1"),
    ],
)  # fmt: skip
def test_each_rank_gets_one_device_and_ranks_share(device, gpus, local_rank, expected, machine):
    machine(gpus, local_rank)
    assert str(Runtime(device).prepare()) == expected


@pytest.mark.parametrize(
    ("device", "gpus", "message"),
    [
        ("cuda", 0, r"^runtime\.device=cuda: PyTorch .* Use runtime\.device=auto or cpu\.$"),
        ("cuda:0", 0, r"^runtime\.device=cuda:0: PyTorch"),
        ("cuda:1", 1, r"^runtime\.device=cuda:1: PyTorch sees only cuda:0 on this machine\. Use one of these"),
        ("cuda:4", 4, r"^runtime\.device=cuda:4: PyTorch sees cuda:0 to cuda:3 on this machine\. Use one"),
    ],
)
def test_what_is_not_there_is_refused(device, gpus, message, machine, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine(gpus)
    with pytest.raises(RefexpError, match=message):
        Runtime(device).prepare()


def test_hidden_gpus_and_builds_without_cuda_are_named(machine, monkeypatch):
    machine(0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RefexpError, match=r"sees no GPU \(CUDA_VISIBLE_DEVICES=''\); `nvidia-smi`"):
        Runtime("cuda").prepare()
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(RefexpError, match=r"is a CPU build; install a CUDA build\."):
        Runtime("cuda").prepare()


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:a", "CUDA", "mps", "", " cpu", "cuda:1 ", 1, None])
def test_other_names_are_refused_before_anything_is_loaded(device):
    with pytest.raises(RefexpError, match=r"^runtime\.device=.*: expected auto, cpu, cuda, or cuda:N") as refusal:
        build({"device": device}, "runtime", Runtime)
    assert "\n" not in str(refusal.value)


FAULTS = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from refexp.machine.runtime import keep_heap
    keep_heap()
def work():
    return [np.ones(20_000_000, dtype=np.uint8) for _ in range(5)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_that_is_kept_is_not_paid_for_again():
    faults = {
        side: int(subprocess.run([sys.executable, "-c", FAULTS, side], capture_output=True, check=True).stdout)
        for side in ("kept", "given back")
    }
    assert faults["kept"] < faults["given back"] / 2


def test_loading_a_model_leaves_the_callers_heap_alone(monkeypatch):
    for module in (runtime, experiment):
        monkeypatch.setattr(module, "keep_heap", lambda: pytest.fail("refexp.load set the C library's heap"))
    refexp.load()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda *_: pytest.fail("there is no glibc"))
    runtime.keep_heap()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(("most", "expected"), [(1 << 30, 4), (1 << 25, 5), (0, 2)])
def test_an_older_glibc_gets_what_it_takes(most, expected, monkeypatch):
    """Where a large threshold is refused, none of the other settings may be made alone."""
    calls = []

    def mallopt(parameter, value):
        calls.append(parameter)
        return int(parameter != runtime.M_MMAP_THRESHOLD or value <= most)

    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda *_: SimpleNamespace(mallopt=mallopt))
    runtime.keep_heap()
    assert len(calls) == expected


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def where(part: int) -> tuple[int, int, int]:
    return part, torch.get_num_threads(), threading.get_ident()


def test_parts_are_worked_on_side_by_side_each_by_one_thread(three_threads):
    found = runtime.side_by_side(where, range(20), torch.device("cpu"))
    assert [part for part, _, _ in found] == list(range(20))
    assert {threads for _, threads, _ in found} == {1}
    assert threading.get_ident() not in {thread for _, _, thread in found}
    assert where(0) == (0, 3, threading.get_ident())
    with ThreadPoolExecutor(1) as pool:  # threads that start later have all
        assert pool.submit(where, 0).result()[1] == 3


def test_a_thread_that_starts_meanwhile_has_all(three_threads):
    def late(part):
        time.sleep(0.05)
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(where, 0).result()[1]

    assert runtime.side_by_side(late, range(6), torch.device("cpu")) == [3] * 6


LAST = """
import threading
import torch
from refexp.machine.runtime import side_by_side

torch.set_num_threads(2)
threading.Thread(target=lambda: print(side_by_side(lambda part: 2 * part, range(5), torch.device("cpu")))).start()
"""


def test_a_thread_may_go_on_after_the_program_has_ended():
    done = subprocess.run([sys.executable, "-c", LAST], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[0, 2, 4, 6, 8]", done.stderr


def test_a_signal_ends_the_work_after_the_parts_in_hand(three_threads):
    worked = []

    def work(part):
        if part == 0:
            signal.raise_signal(signal.SIGINT)
        time.sleep(0.05)
        worked.append(part)

    with pytest.raises(KeyboardInterrupt):
        runtime.side_by_side(work, range(1000), torch.device("cpu"))
    assert len(worked) < 20
    assert torch.get_num_threads() == 3


def test_one_part_or_a_gpu_gets_no_threads(three_threads):
    for parts, device in ((range(1), "cpu"), (range(20), "cuda")):
        found = runtime.side_by_side(where, parts, torch.device(device))
        assert found == [(part, 3, threading.get_ident()) for part in parts]
    assert runtime.side_by_side(where, [], torch.device("cpu")) == []


def test_an_error_of_a_part_is_raised_and_leaves_the_threads_as_they_were(three_threads):
    with pytest.raises(ZeroDivisionError):
        runtime.side_by_side(lambda part: 1 / part, range(20), torch.device("cpu"))
    assert torch.get_num_threads() == 3
