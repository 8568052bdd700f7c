"""Several processes, one run: each rank takes its share, and all end when one of them fails or dies.

Every rank extracts and detects its share of the targets; rank 0 gathers, evaluates and writes. torchrun or srun (one
task a GPU) starts the ranks; a process on its own is rank 0 of 1.

Everything travels through torch's TCPStore, on rank 0 or in torchrun's agent. There is no process group: it would
meet a second time, over a network interface of its own choice, in C++ code that hears no signal. Here the ranks wait in
Python, say for whom, and end at once on SIGTERM or Ctrl-C.

torchrun and `srun --kill-on-bad-exit` end the other ranks when one dies. They may end rank 0 before it has written why,
and nobody ends ranks that something else has started. So each rank leaves its traceback in the store, gives a heartbeat
and looks for the others'. A failure, a killed rank or a lost node then ends every rank within a minute, with the reason
on rank 0.
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
"""How long the ranks wait for each other at the start."""
SAY_AFTER, SAY_EVERY = 5.0, 30.0
"""Seconds after which a rank says for whom it waits, and then says it again."""
BEAT_SECONDS = 2.0
HEARD_SECONDS = 10.0
"""How long a rank that is leaving waits for the others: a failed one for rank 0 to tell why, rank 0 for all."""
PIECE = 1 << 22
"""Bytes of a result that travel at once; the store takes 8 MiB at most."""
LOST = "the connection to rank 0 is lost; its node or its process died"


class Ranks:
    """The processes of one run. Alone, every method is its trivial self."""

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
            if not self.first:  # rank 0 speaks for all, once they have met
                print(f"error: {error}", file=sys.stderr)
            raise

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's items: every world_size-th, so that shares differ by at most one."""
        return list(items[self.rank :: self.world_size])

    def gather(self, value: T) -> list[T] | None:
        """Every rank's value in rank order on rank 0, None on the others.

        Waits as long as the slowest rank works. Raises RankFailed if one fails or falls silent.
        """
        if self.world_size == 1:
            return [value]
        self.meetings += 1
        keys = self._keys(f"value {self.meetings}")
        data = pickle.dumps(value)
        for start in range(0, len(data), PIECE):
            self.store.set(f"{keys[self.rank]}/{start}", data[start : start + PIECE])
        self.store.set(keys[self.rank], str(len(data)))
        self._await(keys, f"{self.me} waits for the results of the others" if self.first else "")
        return [self._take(key) for key in keys] if self.first else None

    def _take(self, key: str) -> Any:
        pieces = [f"{key}/{start}" for start in range(0, int(self.store.get(key)), PIECE)]
        data = b"".join(map(self.store.get, pieces))
        for piece in pieces:
            self.store.delete_key(piece)
        return pickle.loads(data)

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
            self.store.set(self._keys("done")[self.rank], "")
            if self.first:  # it may serve the store: let the others say that they are done before it leaves
                self._await(self._keys("done"), seconds=HEARD_SECONDS)
        except BaseException as error:
            self.listening = False
            self._tell(error)
            raise

    def _join(self, host: str, port: int) -> None:
        """Meet the others. Rank 0 says that all wait; the others say it as long as there is no rank 0."""
        import torch.distributed as dist

        where = f"{host}:{port}"
        says = f"{self.me} waits for the others at {where}, up to {JOIN_SECONDS:.0f} s"
        store, missing = connect(host, port, self.first, says), [0]
        if store is not None:
            # torchrun's agent keeps its store when it starts failed ranks again.
            prefix = f"refexp/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{self.world_size}"
            self.store: Any = dist.PrefixStore(prefix, store)
            self.store.set(f"beat/{self.rank}", "")
            if self.store.add(f"joined/{self.rank}", 1) > 1:
                raise RefexpError(f"there is another {self.me} at {where}: two runs, or two processes with one RANK.")
            joined = [f"joined/{rank}" for rank in range(self.world_size)]
            if self._await(joined[:1], says, JOIN_SECONDS):
                self._await(joined, says if self.first else "", JOIN_SECONDS)
            missing = [rank for rank, key in enumerate(joined) if not self.store.check([key])]
        if missing:
            raise RefexpError(
                f"{self.me} found no rank {', '.join(map(str, missing))} at {where} within {JOIN_SECONDS:.0f} s. "
                "Are all ranks started, and may they reach that address?"
            )
        signal.signal(signal.SIGVTALRM, self._interrupted)  # nothing else here uses this signal
        self.leaving = threading.Event()
        self.watcher = threading.Thread(target=self._watch, name="ranks", daemon=True)
        self.watcher.start()
        atexit.register(self._stop_watching)

    def _keys(self, what: str) -> list[str]:
        """One key a rank, of this job."""
        return [f"{self.job}/{what}/{rank}" for rank in range(self.world_size)]

    def _await(self, keys: list[str], says: str = "", seconds: float = math.inf) -> bool:
        """Wait until all of these are in the store; False if they are not after that many seconds."""
        try:
            return any(self.store.check(keys) for _ in patience(says, seconds))
        except RuntimeError:
            raise RankFailed(LOST) from None

    def _tell(self, error: BaseException) -> None:
        """Leave the reason where the others look, and give rank 0 the time to read it."""
        text = str(error) if isinstance(error, RefexpError) else "".join(traceback.format_exception(error))
        with suppress(RuntimeError, RankFailed):  # the store is gone
            text = f"rank {self.rank} on {socket.gethostname()} failed: {text}"
            # Names of files may hold bytes that are no UTF-8.
            self.store.compare_set(f"{self.job}/failed", "", text.encode(errors="replace").decode())
            # Told to leave by a signal or by another rank, there is nothing to explain.
            if not self.first and isinstance(error, Exception) and not isinstance(error, RankFailed):
                self._await([f"{self.job}/heard"], seconds=HEARD_SECONDS)

    def _watch(self) -> None:
        """Give a heartbeat and look for the others', as long as the process lives."""
        # Rank 0 listens to all, the others to rank 0, which tells them what it hears.
        heard = {rank: (b"", time.monotonic()) for rank in (range(1, self.world_size) if self.first else [0])}
        while not self.leaving.wait(BEAT_SECONDS):
            try:
                self.store.set(f"beat/{self.rank}", str(time.monotonic_ns()))
                problem = self._failure() or self._silence(heard)
            except RuntimeError:  # the server of the store, rank 0's or torchrun's, is gone
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
                why = "killed, out of memory, or its node is gone"
                return f"rank {rank} has given no sign of life for {self.silence:.0f} s: {why}"
        return None

    def _interrupt(self, problem: str) -> None:
        """Raise RankFailed in the main thread. If that is stuck in C++ code, where no exception reaches it, leave."""
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
        """Let no thread be inside the store when the interpreter ends: coming back, it would abort the process."""
        self.leaving.set()
        self.watcher.join(HEARD_SECONDS)


def connect(host: str, port: int, first: bool, says: str) -> Any:
    """The store in which the ranks meet, rank 0's or torchrun's; None if there is none after JOIN_SECONDS."""
    import torch.distributed as dist

    serve = first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    found: Future[Any] = Future()

    def look() -> None:
        for _ in patience(seconds=JOIN_SECONDS):
            try:
                if not serve:  # torch would print a trace for every vain try
                    socket.create_connection((host, port), timeout=JOIN_SECONDS).close()
                address = "127.0.0.1" if serve else host
                return found.set_result(dist.TCPStore(address, port, is_master=serve, wait_for_workers=False))
            except (socket.gaierror, RuntimeError) as error:
                why = f"{first_line(error)}. Are MASTER_ADDR and MASTER_PORT right, and is the port free?"
                return found.set_exception(RefexpError(f"the ranks cannot meet at {host}:{port}: {why}"))
            except OSError:
                continue

    # In a thread of its own: no signal interrupts the resolver, or torch where another program answers at this port.
    threading.Thread(target=look, daemon=True).start()
    return found.result() if any(found.done() for _ in patience(says, JOIN_SECONDS)) else None


def patience(says: str = "", seconds: float = math.inf) -> Iterator[None]:
    """The short steps of a wait of so many seconds. After 5 s, and then every 30 s, stderr has what it `says`."""
    start, line = time.monotonic(), SAY_AFTER
    while (waited := time.monotonic() - start) < seconds:
        if says and waited >= line:
            line += SAY_EVERY
            print(f"{says}; Ctrl-C or SIGTERM stops it ({waited:.0f} s so far)", file=sys.stderr, flush=True)
        yield
        time.sleep(0.05)


_ranks: Ranks | None = None


def join(silence: float) -> Ranks:
    """The ranks of this process, which stay together for all jobs of a multirun."""
    global _ranks
    if _ranks is None or _ranks.world_size == 1:
        _ranks = Ranks(this_rank(), silence)
    return _ranks
