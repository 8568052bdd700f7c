"""Work that several processes of this machine share."""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from refexp.errors import RefexpError

log = logging.getLogger(__name__)
T = TypeVar("T")

FEWEST = 8
"""Fewest items for which another process is worth starting."""
PART = 4
"""Items that a process gets at a time."""
PR_SET_PDEATHSIG = 1
"""prctl: the signal that this process gets when its parent ends."""

_work: Callable[[int], Any] | None = None
"""What the forked processes of `spread` do. They inherit it, because a function of this kind cannot be sent."""


def spread(work: Callable[[int], T], count: int, workers: int) -> Iterator[tuple[int, T]]:
    """Yield every number below `count` with its `work(number)`, in any order.

    With several workers, processes that are forked from this one compute them, so `work` may use all that this process
    has in memory. This one computes the first number before they start, so what that compiles is compiled once. Results
    must be picklable. Where the system cannot fork safely, or lacks semaphores, this process computes all.
    Raises what `work` raises, and RefexpError if a process is killed.
    """
    pool = _pool(min(workers, count // FEWEST))
    alone = 1 if pool else count
    for number in range(min(alone, count)):
        yield number, work(number)
    if pool is None:
        return
    global _work
    _work = work
    parts = [range(start, min(start + PART, count)) for start in range(1, count, PART)]
    try:
        for done in as_completed([pool.submit(_work_on, part) for part in parts]):
            yield from pickle.loads(done.result())
    except BrokenProcessPool:
        raise RefexpError(
            "a worker process was killed, perhaps for lack of memory: set fewer runtime.workers."
        ) from None
    finally:
        _work = None
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor | None:
    """Return a pool of processes that are forked when they get work. None if one process does or must do it all."""
    if workers < 2 or sys.platform != "linux":
        return None
    try:
        return ProcessPoolExecutor(workers, get_context("fork"), _prepare_worker, (os.getpid(),))
    except (OSError, NotImplementedError, ImportError) as error:  # no semaphores, as in some containers
        log.warning("this system offers no semaphores (%s), so one process does all the work", error)
        return None


def _prepare_worker(parent: int) -> None:
    """Let a forked process end with its parent, and leave Ctrl-C to it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _work_on(part: range) -> bytes:
    """Return the pickled results of these numbers. multiprocessing itself would send each tensor through a file."""
    assert _work is not None
    return pickle.dumps([(number, _work(number)) for number in part])
