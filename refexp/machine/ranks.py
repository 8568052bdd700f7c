"""Several processes, one run: who takes which share, and how all end when one of them fails or dies.

Every rank extracts and detects its share of the targets; rank 0 gathers, evaluates and writes. Ranks are started by
torchrun or by srun (one task a GPU); a process on its own is rank 0 of 1.

Results travel through gloo once per run. Between that, each rank gives a sign of life and looks for those of the
others: a failure, a killed rank or a lost node then ends every rank within a minute, with the reason on rank 0.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from refexp.errors import RankFailed, RefexpError, first_line

T = TypeVar("T")

JOIN_SECONDS = 120.0
"""How long the ranks wait for each other at the start, and a collective for its data."""
BEAT_SECONDS = 2.0
HEARD_SECONDS = 10.0
"""How long a rank that is leaving waits for the others: a failed one for rank 0 to tell why, rank 0 for all."""
SIGNAL = getattr(signal, "SIGVTALRM", None)
"""Carries a failure from the watching thread into the main one; nothing else here uses it."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among those of the run, as its starter says."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    starter: str = "alone"


@cache
def place() -> Place:
    """Read torchrun's or srun's environment. A process inside an allocation but outside srun is alone."""
    env = os.environ
    if "RANK" in env and "WORLD_SIZE" in env and "MASTER_ADDR" in env:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        rank, world_size, local_rank, local_world_size = (
            int(env.get(name, 1 if "SIZE" in name else 0)) for name in names
        )
        return Place(rank, world_size, local_rank, local_world_size, "torchrun")
    if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in env:
        on_node = int(env.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0].split(",")[0])
        return Place(
            int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"]), on_node, "srun"
        )
    return Place()


class Ranks:
    """The processes of one run. Alone, every method is its trivial self."""

    def __init__(self, place: Place, silence: float) -> None:
        self.rank, self.world_size, self.silence = place.rank, place.world_size, silence
        self.job, self.meetings, self.listening = 0, 0, False
        if self.world_size > 1:
            self._join(place)

    @property
    def first(self) -> bool:
        """Whether this rank writes, draws and prints."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items: every world_size-th, so that shares differ by at most one."""
        return list(items[self.rank :: self.world_size])

    def gather(self, value: T) -> list[T] | None:
        """Every rank's value in rank order on rank 0, None on the others.

        Waits as long as the slowest rank works. Raises RankFailed if one fails or falls silent.
        """
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        self._meet()  # waiting in Python, where a failure can be told; the collective itself is then quick
        gathered: list[Any] | None = [None] * self.world_size if self.first else None
        dist.gather_object(value, gathered, dst=0)
        return gathered

    @contextmanager
    def run(self) -> Iterator[Ranks]:
        """One run of all ranks: an exception in one of them ends the run on every rank."""
        if self.world_size == 1:
            yield self
            return
        self.job, self.meetings, self.listening = self.job + 1, 0, True
        try:
            yield self
            self.listening = False
            self.store.set(self._key("done"), "")
            if self.first:
                self._see_off()
        except RankFailed:
            raise
        except BaseException as error:
            self.listening = False
            self._tell(error)
            raise
        finally:
            self.listening = False

    def _join(self, place: Place) -> None:
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        if place.starter == "srun":
            os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = srun_master()
        wait = timedelta(seconds=JOIN_SECONDS)
        try:
            store, _, _ = next(rendezvous("env://", self.rank, self.world_size, timeout=wait))
            # One connection each: the watching thread must not wait behind the main one. Only results travel, and they
            # are on the CPU: gloo, which lets ranks share a GPU as NCCL does not.
            dist.init_process_group(
                "gloo",
                store=dist.PrefixStore("group", store),
                rank=self.rank,
                world_size=self.world_size,
                timeout=wait,
            )
        except (RuntimeError, ValueError) as error:
            where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RefexpError(
                f"rank {self.rank} of {self.world_size} found no others at {where} within {JOIN_SECONDS:.0f} s: "
                f"{first_line(error)}. Are all ranks started, and may they reach that address?"
            ) from None
        self.store = dist.PrefixStore("refexp", store)
        if SIGNAL is not None:
            signal.signal(SIGNAL, self._interrupted)
        self.leaving = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self.watcher.start()
        atexit.register(self._stop_watching)

    def _key(self, what: str, rank: int | None = None) -> str:
        return f"{what}/{self.job}/{self.rank if rank is None else rank}"

    def _meet(self) -> None:
        self.meetings += 1
        tag = f"met{self.meetings}"
        self.store.set(self._key(tag), "")
        keys = [self._key(tag, rank) for rank in range(self.world_size)]
        while not self.store.check(keys):
            time.sleep(0.05)

    def _see_off(self) -> None:
        """Rank 0 may serve the store: let the others say that they are done before it leaves."""
        self._await([self._key("done", rank) for rank in range(self.world_size)])

    def _await(self, keys: list[str]) -> None:
        """Wait until all of these are in the store, HEARD_SECONDS at most."""
        deadline = time.monotonic() + HEARD_SECONDS
        while not self.store.check(keys) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _tell(self, error: BaseException) -> None:
        """Leave the reason where the others look, and give rank 0 the time to read it."""
        fault = not isinstance(error, RefexpError)
        text = "".join(traceback.format_exception(error)) if fault else str(error)
        self.store.set(self._key("failed"), f"rank {self.rank} on {socket.gethostname()} failed: {text}")
        if not self.rank or not isinstance(error, Exception):
            return  # told to leave by a signal, there is nothing to explain
        self._await([f"heard/{self.job}"])

    def _watch(self) -> None:
        """Give a sign of life and look for the others', as long as the process lives."""
        heard = {rank: ("", time.monotonic()) for rank in range(self.world_size)}
        beats, told = 0, 0
        while not self.leaving.is_set():
            beats += 1
            try:
                self.store.set(f"beat/{self.rank}", str(beats))
                problem = self._failure() or self._silence(heard)
            except (RuntimeError, ValueError):  # the server of the store, rank 0's or torchrun's, is gone
                problem = "the connection to rank 0 is lost; its node or its process died"
            if problem and self.listening and told != self.job:
                told, self.problem = self.job, problem
                signal.pthread_kill(threading.main_thread().ident or 0, SIGNAL or 0)
                threading.Thread(target=self._leave, args=(self.job,), daemon=True).start()
            self.leaving.wait(BEAT_SECONDS)

    def _stop_watching(self) -> None:
        """Let no thread be inside the store when the interpreter ends: coming back, it would abort the process."""
        self.leaving.set()
        self.watcher.join(HEARD_SECONDS)

    def _failure(self) -> str | None:
        for rank in range(self.world_size):
            if rank != self.rank and self.store.check([self._key("failed", rank)]):
                if self.first:
                    self.store.set(f"heard/{self.job}", "")
                return self.store.get(self._key("failed", rank)).decode()
        return None

    def _silence(self, heard: dict[int, tuple[str, float]]) -> str | None:
        now = time.monotonic()
        for rank in range(self.world_size):
            if rank == self.rank or self.store.check([self._key("done", rank)]):
                continue
            beat = self.store.get(f"beat/{rank}").decode() if self.store.check([f"beat/{rank}"]) else ""
            if beat != heard[rank][0] or not self.listening:
                heard[rank] = (beat, now)
            elif now - heard[rank][1] > self.silence:
                return (
                    f"rank {rank} has given no sign of life for {self.silence:.0f} s: killed, out of memory, or its "
                    "node is gone"
                )
        return None

    def _interrupted(self, *_: Any) -> None:
        if self.listening:
            self.listening = False
            raise RankFailed(self.problem)

    def _leave(self, job: int) -> None:
        """The last resort, for a main thread that is stuck where no exception reaches it."""
        time.sleep(HEARD_SECONDS)
        if self.job == job and self.listening:
            os.write(2, f"error: {self.problem}\n".encode())
            os._exit(1)


def srun_master() -> tuple[str, str]:
    """Address and port of rank 0 for the tasks of one srun: the step's first node, a port made of job and step."""
    nodes = os.environ["SLURM_STEP_NODELIST"]
    try:
        first = scontrol("show", "hostnames", nodes).split()[0]
        # The address by which SLURM itself reaches the node: its name need not be known to everyone.
        address = scontrol("--oneliner", "show", "node", first).split("NodeAddr=")[1].split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        raise RefexpError(f"cannot tell the address of the first node of {nodes!r}: scontrol failed here.") from None
    port = 20000 + (int(os.environ["SLURM_JOB_ID"]) * 7 + int(os.environ.get("SLURM_STEP_ID", 0))) % 20000
    return address, str(port)


def scontrol(*arguments: str) -> str:
    """What SLURM's control command answers."""
    done = subprocess.run(["scontrol", *arguments], capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


_ranks: Ranks | None = None


def join(silence: float) -> Ranks:
    """The ranks of this process, which stay together for all jobs of a multirun."""
    global _ranks
    if _ranks is None or _ranks.world_size == 1:
        _ranks = Ranks(place(), silence)
    return _ranks
