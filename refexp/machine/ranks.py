"""Multi-process runs: sharding, gathering, and failing together.

Every rank extracts and detects its share of the targets. Rank 0 gathers, evaluates and writes. torchrun or srun (one
task per GPU) starts the ranks. A single process is rank 0 of 1.

All data goes through torch's TCPStore, on rank 0 or in torchrun's agent. There is no process group. A process group
would connect a second time, over a network interface that it chooses, and would wait in C++ code that ignores signals.
Here the ranks wait in Python, print for whom they wait, and exit immediately on SIGTERM or Ctrl-C.

torchrun and `srun --kill-on-bad-exit` kill the other ranks when one dies. They may kill rank 0 before it has written
the reason, and other ways to start ranks kill nothing. Therefore each rank writes its traceback into the store, sends a
heartbeat, and checks the heartbeats of others. A failure, a killed rank or a lost node then ends every rank within a
minute, and rank 0 reports the reason.
"""

from __future__ import annotations

import atexit
import math
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from refexp.errors import RankFailed, RefexpError, first_line
from refexp.rank import Rank, meeting_point, this_rank

T = TypeVar("T")

JOIN_SECONDS = 120.0
"""Maximum time that the ranks wait for each other at the start."""
PRINT_AFTER, PRINT_EVERY = 5.0, 30.0
"""A waiting rank prints for whom it waits after this many seconds, and then again in this interval."""
BEAT_SECONDS = 2.0
HEARD_SECONDS = 10.0
"""Maximum wait at the end: a failed rank waits until rank 0 has read the reason; rank 0 waits for all ranks."""
PIECE = 1 << 22
"""Bytes per message of a gathered value. The store accepts at most 8 MiB."""
LOST = "the connection to rank 0 is lost; its node or its process died"


class Ranks:
    """The processes of one run. With a single process, every method is trivial."""

    def __init__(self, here: Rank, silence: float) -> None:
        self.rank, self.world_size, self.silence = here.rank, here.world_size, silence
        self.first = self.rank == 0
        """Whether this rank writes, draws and prints."""
        self.me = f"rank {self.rank} of {self.world_size}"
        self.job, self.meetings, self.listening = 0, 0, False
        if self.world_size == 1:
            return
        try:
            self._join(*meeting_point(here.starter))
        except RefexpError as error:
            if not self.first:  # rank 0 reports errors for all, but only after the ranks are connected
                print(f"error: {error}", file=sys.stderr)
            raise

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's share: every world_size-th item. The sizes of the shares differ by at most one."""
        return list(items[self.rank :: self.world_size])

    def gather(self, value: T) -> list[T] | None:
        """On rank 0, the values of all ranks in rank order. None on other ranks.

        Rank 0 waits for the slowest rank. Raises RankFailed if a rank fails or stops sending heartbeats.
        """
        if self.world_size == 1:
            return [value]
        keys = self._put(value)
        if not self.first:
            return None
        found = [self._get(key) for key in keys]
        for key in keys:
            for piece in self._pieces(key):
                self.store.delete_key(piece)
        return found

    def exchange(self, value: T) -> list[T]:
        """On every rank, the values of all ranks in rank order. For small values: they stay in the store.

        Raises RankFailed like `gather`.
        """
        return [value] if self.world_size == 1 else [self._get(key) for key in self._put(value)]

    def _put(self, value: Any) -> list[str]:
        """Write this rank's value and wait for those of the others. Returns the keys of all."""
        self.meetings += 1
        keys = self._keys(f"value {self.meetings}")
        data = pickle.dumps(value)
        for start in range(0, len(data), PIECE):
            self.store.set(f"{keys[self.rank]}/{start}", data[start : start + PIECE])
        self.store.set(keys[self.rank], str(len(data)))
        self._await(keys, f"{self.me} waits for the results of the others" if self.first else "")
        return keys

    def _get(self, key: str) -> Any:
        return pickle.loads(b"".join(map(self.store.get, self._pieces(key))))

    def _pieces(self, key: str) -> list[str]:
        return [f"{key}/{start}" for start in range(0, int(self.store.get(key)), PIECE)]

    @contextmanager
    def run(self) -> Iterator[Ranks]:
        """Context of one run: an exception on one rank ends the run on every rank."""
        if self.world_size == 1:
            yield self
            return
        self.job, self.meetings, self.listening = self.job + 1, 0, True
        try:
            yield self
            self.listening = False
            self.store.set(self._keys("done")[self.rank], "")
            if self.first:  # rank 0 may serve the store, so it must exit after the others
                self._await(self._keys("done"), seconds=HEARD_SECONDS)
        except BaseException as error:
            self.listening = False
            self._publish(error)
            raise

    def _join(self, host: str, port: int) -> None:
        """Connect to the other ranks. Rank 0 prints who is missing; other ranks print only while rank 0 is missing."""
        import torch.distributed as dist

        where = f"{host}:{port}"
        message = f"{self.me} waits for the others at {where}, up to {JOIN_SECONDS:.0f} s"
        store, missing = connect(host, port, self.first, message), [0]
        if store is not None:
            # torchrun's agent keeps its store when it restarts failed ranks: use new keys after each restart.
            prefix = f"refexp/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{self.world_size}"
            self.store: Any = dist.PrefixStore(prefix, store)
            self.store.set(f"beat/{self.rank}", "")
            if self.store.add(f"joined/{self.rank}", 1) > 1:
                raise RefexpError(f"there is another {self.me} at {where}: two runs, or two processes with one RANK.")
            joined = [f"joined/{rank}" for rank in range(self.world_size)]
            if self._await(joined[:1], message, JOIN_SECONDS):
                self._await(joined, message if self.first else "", JOIN_SECONDS)
            missing = [rank for rank, key in enumerate(joined) if not self.store.check([key])]
        if missing:
            raise RefexpError(
                f"{self.me} found no rank {', '.join(map(str, missing))} at {where} within {JOIN_SECONDS:.0f} s. "
                "Check that all ranks are started and can reach that address."
            )
        signal.signal(signal.SIGVTALRM, self._interrupted)  # nothing else here uses this signal
        self.leaving = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self.watcher.start()
        atexit.register(self._stop_watching)

    def _keys(self, what: str) -> list[str]:
        """One key per rank for the current job."""
        return [f"{self.job}/{what}/{rank}" for rank in range(self.world_size)]

    def _await(self, keys: list[str], message: str = "", seconds: float = math.inf) -> bool:
        """Wait until all keys are in the store. Returns False if some are missing after that many seconds."""
        try:
            return any(self.store.check(keys) for _ in patience(message, seconds))
        except RuntimeError:
            raise RankFailed(LOST) from None

    def _publish(self, error: BaseException) -> None:
        """Write the error into the store for the other ranks, and give rank 0 time to read it."""
        text = str(error) if isinstance(error, RefexpError) else "".join(traceback.format_exception(error))
        with suppress(RuntimeError, RankFailed):  # the store is gone
            text = f"rank {self.rank} on {socket.gethostname()} failed: {text}"
            # File names may contain bytes that are not valid UTF-8.
            self.store.compare_set(f"{self.job}/failed", "", text.encode(errors="replace").decode())
            # A rank that was stopped by a signal or by another rank's failure has no reason of its own to report.
            if not self.first and isinstance(error, Exception) and not isinstance(error, RankFailed):
                self._await([f"{self.job}/heard"], seconds=HEARD_SECONDS)

    def _watch(self) -> None:
        """Send a heartbeat and check the heartbeats of others, as long as the process lives."""
        # Rank 0 checks all ranks. Other ranks check only rank 0, which publishes the failures that it sees.
        heard = {rank: (b"", time.monotonic()) for rank in (range(1, self.world_size) if self.first else [0])}
        while not self.leaving.wait(BEAT_SECONDS):
            try:
                self.store.set(f"beat/{self.rank}", str(time.monotonic_ns()))
                problem = self._failure() or self._silence(heard)
            except RuntimeError:  # the server of the store (rank 0 or torchrun) is gone
                problem = LOST
            if problem and self.listening:
                self._interrupt(problem)

    def _failure(self) -> str | None:
        if not self.store.check([f"{self.job}/failed"]):
            return None
        if self.first:
            self.store.set(f"{self.job}/heard", "")
        return self.store.get(f"{self.job}/failed").decode()

    def _silence(self, heard: dict[int, tuple[bytes, float]]) -> str | None:
        now = time.monotonic()
        for rank, (before, since) in heard.items():
            beat = self.store.get(f"beat/{rank}")
            if beat != before or not self.listening or self.store.check([self._keys("done")[rank]]):
                heard[rank] = (beat, now)
            elif now - since > self.silence:
                why = "it was killed, ran out of memory, or its node is down"
                return f"rank {rank} has sent no heartbeat for {self.silence:.0f} s: {why}"
        return None

    def _interrupt(self, problem: str) -> None:
        """Raise RankFailed in the main thread. If that thread is stuck in C++ code, exit the process instead."""
        self.problem = problem
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGVTALRM)
        if all(self.listening for _ in patience(seconds=HEARD_SECONDS)):
            os.write(2, f"error: {problem}\n".encode())
            os._exit(1)

    def _interrupted(self, *_: Any) -> None:
        if self.listening:
            self.listening = False
            raise RankFailed(self.problem)

    def _stop_watching(self) -> None:
        """Stop the watcher thread: if it were inside the store when the interpreter exits, the process would abort."""
        self.leaving.set()
        self.watcher.join(HEARD_SECONDS)


def connect(host: str, port: int, first: bool, message: str) -> Any:
    """Connect to the store of rank 0 or torchrun. None if there is none after JOIN_SECONDS."""
    import torch.distributed as dist

    serve = first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    found: Future[Any] = Future()

    def attempt() -> None:
        for _ in patience(seconds=JOIN_SECONDS):
            try:
                if not serve:  # try a plain socket first, because torch prints a trace for every failed attempt
                    socket.create_connection((host, port), timeout=JOIN_SECONDS).close()
                address = "127.0.0.1" if serve else host
                return found.set_result(dist.TCPStore(address, port, is_master=serve, wait_for_workers=False))
            except (socket.gaierror, RuntimeError) as error:
                why = f"{first_line(error)}. Check MASTER_ADDR and MASTER_PORT, and that the port is free."
                return found.set_exception(RefexpError(f"the ranks cannot meet at {host}:{port}: {why}"))
            except OSError:
                continue

    # In a separate thread, because signals do not interrupt the name resolver, nor torch if another program answers.
    threading.Thread(target=attempt, daemon=True).start()
    return found.result() if any(found.done() for _ in patience(message, JOIN_SECONDS)) else None


def patience(message: str = "", seconds: float = math.inf) -> Iterator[None]:
    """Yield in short steps for at most that many seconds. Prints `message` to stderr after 5 s, then every 30 s."""
    start, line = time.monotonic(), PRINT_AFTER
    while (waited := time.monotonic() - start) < seconds:
        if message and waited >= line:
            line += PRINT_EVERY
            print(f"{message}; Ctrl-C or SIGTERM stops it ({waited:.0f} s so far)", file=sys.stderr, flush=True)
        yield
        time.sleep(0.05)


_ranks: Ranks | None = None


def join(silence: float) -> Ranks:
    """The ranks of this run. They stay connected for all jobs of a multirun."""
    global _ranks
    if _ranks is None or _ranks.world_size == 1:
        _ranks = Ranks(this_rank(), silence)
    return _ranks
