"""In which precision networks compute, and that PyTorch's switches are as before afterwards."""

from __future__ import annotations

import platform
import threading

import pytest
import torch

from refexp.errors import RefexpError
from refexp.machine import networks
from refexp.machine.networks import computing, load_network, switched
from refexp.proposers.sam2 import SAM2Proposer
from refexp.proposers.union import UnionProposer

CPU = torch.device("cpu")
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
NEW = hasattr(CUDNN, "conv")


def switches() -> list:
    newer = [part.fp32_precision for part in (MATMUL, CUDNN.conv, CUDNN.rnn)] if NEW else []
    older = [MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.deterministic, CUDNN.benchmark]
    return [*older, torch.get_float32_matmul_precision(), *newer]


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("program", ["highest", "high", "medium"])
def test_tf32_is_on_only_where_asked_for_in_convolutions_too(tf32, program):
    torch.set_float32_matmul_precision(program)
    try:
        before = switches()
        with switched(tf32):
            assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == (tf32, tf32)
            assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
            assert CUDNN.deterministic and not CUDNN.benchmark
            if NEW:
                assert {MATMUL.fp32_precision, CUDNN.conv.fp32_precision} == {"tf32" if tf32 else "ieee"}
        assert switches() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_blocks_nest_and_an_error_leaves_no_trace():
    before = switches()
    with switched(tf32=True):
        with pytest.raises(ZeroDivisionError), computing(CPU):
            assert not MATMUL.allow_tf32 and 1 / 0
        assert MATMUL.allow_tf32
    assert switches() == before


def test_blocks_of_threads_wait_for_each_other():
    """Else the block that ends last would restore what the other had set."""
    before, inside, events = switches(), threading.Event(), []

    def other() -> None:
        inside.wait()
        with computing(CPU):
            events.append("second")

    thread = threading.Thread(target=other)
    thread.start()
    with computing(CPU):
        inside.set()
        thread.join(0.2)
        events.append("first")
    thread.join()
    assert events == ["first", "second"]
    assert switches() == before


@pytest.mark.skipif(not NEW, reason="this PyTorch has one switch for TF32")
def test_a_program_that_set_the_newer_switches_keeps_them():
    MATMUL.fp32_precision, CUDNN.conv.fp32_precision = "tf32", "ieee"
    try:
        with computing(CPU):
            assert (MATMUL.fp32_precision, MATMUL.allow_tf32) == ("ieee", False)
        assert (MATMUL.fp32_precision, CUDNN.conv.fp32_precision) == ("tf32", "ieee")
    finally:
        MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", "float32"), ("tf32", "float32"), ("bfloat16",) * 2, ("float16",) * 2]
)
def test_products_are_computed_in_the_precision(precision, dtype):
    with computing(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, dtype)
        with computing(CPU):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


class Network:
    loaded_on = None

    def __init__(self, precision=None):
        if precision:
            self.precision = precision

    def load(self, device):
        self.loaded_on = device


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("cpu", ["NO AVX", "AVX2"])
def test_half_precision_is_refused_where_it_would_take_thirty_times_as_long(precision, cpu, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    network = Network(precision)
    with pytest.raises(RefexpError, match=f"precision={precision}: this CPU has no instr.*Use precision=float32"):
        load_network(network, CPU)
    assert network.loaded_on is None
    load_network(network, torch.device("cuda"))
    assert network.loaded_on == torch.device("cuda")


def test_half_precision_is_refused_in_a_part_too(monkeypatch):
    monkeypatch.setattr(networks, "has_half", lambda device: False)
    part = SAM2Proposer("sam2_hiera_t", weights="random", precision="bfloat16")
    with pytest.raises(RefexpError, match="precision=bfloat16: this CPU"):
        load_network(UnionProposer({"one": part}), CPU)


@pytest.mark.parametrize(
    ("precision", "cpu", "machine"),
    [
        ("bfloat16", "AVX512", "x86_64"),
        ("tf32", "AVX2", "x86_64"),
        (None, "AVX2", "AMD64"),
        ("float16", "NO AVX", "arm64"),
    ],
)
def test_other_precisions_and_cpus_are_not(precision, cpu, machine, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: cpu)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    network = Network(precision)
    load_network(network, CPU)
    assert network.loaded_on == CPU
