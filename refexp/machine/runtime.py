"""Where a run computes: the device of this rank, and how many CPU cores it uses."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from refexp.errors import RefexpError
from refexp.machine.provenance import available_cores
from refexp.machine.ranks import place

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Numbers of glibc's mallopt."""


def _known(device: Any) -> Any:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(device)):
        raise PydanticCustomError("device", "expected auto, cpu, cuda, or cuda:N with N counted from 0")
    return device


@dataclass(frozen=True)
class Runtime:
    """Where a run computes.

    device: "auto" takes a GPU if there is one, else the CPU. "cuda" requires one. With both, the ranks of a machine
    take its GPUs in turn, and share them if there are more ranks. "cuda:1" is that GPU, for every rank.
    threads: CPU threads of a process. None keeps PyTorch's default for a single process and splits the cores between
    the ranks of a machine.
    silence: seconds without a heartbeat before a rank is considered dead and the run ends.
    """

    device: Annotated[str, BeforeValidator(_known)] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    silence: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 45.0

    def prepare(self) -> torch.device:
        """Set the number of threads and return the device. Raises RefexpError if the device is not there."""
        here = place()
        if self.threads or here.local_world_size > 1:
            torch.set_num_threads(self.threads or max(1, available_cores() // here.local_world_size))
        count = torch.cuda.device_count() if self.device != "cpu" and torch.cuda.is_available() else 0
        if self.device == "cpu" or (self.device == "auto" and not count):
            return torch.device("cpu")
        if not count:
            raise RefexpError(f"runtime.device={self.device}: {_why_no_gpu()} Use runtime.device=auto or cpu.")
        index = int(self.device[5:]) if ":" in self.device else here.local_rank % count
        if index >= count:
            there = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            seen = f"PyTorch sees {there} on this machine{_visible()}"
            raise RefexpError(f"runtime.device={self.device}: {seen}. Use one of these, or runtime.device=auto.")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        return device


def keep_heap() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    glibc gives every large buffer back to the system, and the next image pays page faults for new ones: a tenth to a
    fifth of its extraction on a CPU. Memory does not peak higher, but stays at its peak. Only for processes that are
    refexp's own.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    # Older versions take no more than 32 MiB. Without this one, the other two would make matters worse.
    if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25):
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_TOP_PAD, 1 << 26)


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is a build for CPUs; install one for CUDA."
    return f"PyTorch sees no GPU here{_visible()}; `nvidia-smi` shows what the driver sees."


def _visible() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
