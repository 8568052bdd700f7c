"""Device and number of CPU threads of this rank."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from refexp.errors import RefexpError
from refexp.machine.provenance import available_cores
from refexp.rank import this_rank

T = TypeVar("T")
Result = TypeVar("Result")

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
"""Parameter numbers of glibc's mallopt."""


def _known(device: Any) -> Any:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(device)):
        raise PydanticCustomError("device", "expected auto, cpu, cuda, or cuda:N with N counted from 0")
    return device


@dataclass(frozen=True)
class Runtime:
    """The `runtime` keys of the configuration.

    device: "auto" takes a GPU if there is one, else the CPU. "cuda" requires a GPU. With both, the ranks of a machine
    are distributed over its GPUs, and share them if there are more ranks than GPUs. "cuda:1" is that GPU for all ranks.
    threads: CPU threads of a process. None keeps PyTorch's default for a single process and splits the cores between
    the ranks of a machine.
    workers: processes that match, merge and compare with the truth. None takes one for each core. Several ranks use one
    each. The results are the same for any number.
    silence: seconds without a heartbeat before a rank is considered dead and the run ends.
    """

    device: Annotated[str, BeforeValidator(_known)] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    workers: Annotated[int, Field(ge=1)] | None = None
    silence: Annotated[float, Field(ge=5, allow_inf_nan=False)] = 45.0

    def processes(self, ranks: int) -> int:
        """The number of processes that search the targets of a rank."""
        return 1 if ranks > 1 else self.workers or available_cores()

    def prepare(self) -> torch.device:
        """Set the number of threads and return the device. Raises RefexpError if the device does not exist."""
        here = this_rank()
        if self.threads or here.local_world_size > 1:
            torch.set_num_threads(self.threads or max(1, available_cores() // here.local_world_size))
        count = torch.cuda.device_count() if self.device != "cpu" and torch.cuda.is_available() else 0
        if self.device == "cpu" or (self.device == "auto" and not count):
            return torch.device("cpu")
        if not count:
            raise RefexpError(f"runtime.device={self.device}: {_why_no_gpu()} Use runtime.device=auto or cpu.")
        index = int(self.device[5:]) if ":" in self.device else here.local_rank % count
        if index >= count:
            present = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
            seen = f"PyTorch sees {present} on this machine{_visible()}"
            raise RefexpError(f"runtime.device={self.device}: {seen}. Use one of these, or runtime.device=auto.")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
        return device


def side_by_side(work: Callable[[T], Result], parts: Sequence[T], device: torch.device) -> list[Result]:
    """Return `work(part)` of each part, in order, without gradients. On a CPU each thread works on a part of its own.

    For work of many short operations. With all threads on each, they would wait for each other at the end of each. The
    caller may be in `networks.computing`; work must not enter it, because it would wait for the caller.
    """
    threads = torch.get_num_threads()
    work = torch.inference_mode()(work)  # a thread does not have the modes of the caller
    if device.type != "cpu" or min(threads, len(parts)) <= 1:
        return [work(part) for part in parts]
    todo = iter(enumerate(parts))
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    ready = threading.Semaphore(0)

    def take_parts() -> None:
        torch.get_num_threads()  # so that PyTorch does not set the number of this thread later
        torch.set_num_threads(1)
        ready.release()
        try:
            for place, part in todo:
                results[place] = work(part)
                if errors:
                    return
        except BaseException as error:
            errors.append(error)

    # Not a pool: it takes no work once the main thread has ended.
    crew: list[threading.Thread] = []
    try:
        for _ in range(min(threads, len(parts))):
            thread = threading.Thread(target=take_parts)
            thread.start()
            crew.append(thread)
        for _ in crew:
            ready.acquire()
        torch.set_num_threads(threads)  # PyTorch gives the last number that was set to new threads of the program
        for thread in crew:
            thread.join()
    except BaseException as error:  # a signal's
        errors.insert(0, error)
    for thread in crew:
        thread.join()
    torch.set_num_threads(threads)
    if errors:
        raise errors[0]
    return [results[place] for place in range(len(parts))]


def keep_heap() -> None:
    """Make glibc keep freed memory in this process. Does nothing with another C library.

    By default, glibc returns every large buffer to the system. The next image then causes page faults for new buffers,
    which cost 10 to 20 percent of its extraction time on a CPU. The peak of the memory does not change, but the memory
    stays at its peak. Call this only in processes that belong to refexp.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    # Older versions accept at most 32 MiB. Without this parameter, the others would slow the process down.
    if mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25):
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_TOP_PAD, 1 << 26)
        mallopt(M_ARENA_MAX, 1)  # all threads share one heap, so that none keeps its own peak


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"PyTorch {torch.__version__} is a CPU build; install a CUDA build."
    return f"PyTorch sees no GPU{_visible()}; `nvidia-smi` lists the GPUs that the driver sees."


def _visible() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
