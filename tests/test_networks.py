"""In which precision networks compute, and that PyTorch's switches are as before afterwards."""

from __future__ import annotations

import pytest
import torch

from refexp.networks import computing

CPU = torch.device("cpu")
MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
NEW = hasattr(CUDNN, "conv")


def switches() -> list:
    newer = [MATMUL.fp32_precision, CUDNN.conv.fp32_precision] if NEW else []
    return [MATMUL.allow_tf32, CUDNN.allow_tf32, CUDNN.deterministic, CUDNN.benchmark, *newer]


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True), ("bfloat16", False)])
def test_tf32_is_on_only_where_asked_for_in_convolutions_too(precision, tf32):
    before = switches()
    with computing(CPU, precision):
        assert (MATMUL.allow_tf32, CUDNN.allow_tf32) == (tf32, tf32)
        assert CUDNN.deterministic and not CUDNN.benchmark
        if NEW:
            assert {MATMUL.fp32_precision, CUDNN.conv.fp32_precision} == {"tf32" if tf32 else "ieee"}
    assert switches() == before


def test_blocks_nest_and_an_error_leaves_no_trace():
    before = switches()
    with computing(CPU, "tf32"):
        with pytest.raises(ZeroDivisionError), computing(CPU):
            assert not MATMUL.allow_tf32 and 1 / 0
        assert MATMUL.allow_tf32
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
