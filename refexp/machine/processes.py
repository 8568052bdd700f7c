"""Processes of this machine: whether one is alive, and how threads wait. Imports only the standard library."""

from __future__ import annotations

import os
import zlib
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is alive. A zombie (it has exited, but its parent has not waited) is not."""
    try:
        os.kill(pid, 0)
        return _stat(pid)[:1] != ["Z"]
    except ProcessLookupError:
        return False
    except OSError:  # no permission: it exists and belongs to another user
        return True


def _stat(pid: int) -> list[str]:
    """What Linux tells of a process, from its state on; [] if it is gone, or elsewhere than on Linux."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def pid_space() -> str:
    """Return 8 hex digits that processes have in common whose numbers can be compared. Those of a container differ.

    Containers of a machine can have the same host name, and a machine gives numbers again after it is started anew.
    """
    try:
        space = Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        space = ""
    return f"{zlib.crc32(space.encode()):08x}"


def identity(pid: int) -> str:
    """What tells a process from any other with the same number: where the number counts, and when it started."""
    return " ".join([pid_space(), *_stat(pid)[19:20]])


def runs_program(pid: int, word: str) -> bool:
    """Whether a process of this machine has this word in its command line: pids are given again to other programs."""
    try:
        return word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_briefly() -> None:
    """Shorten the busy waiting of this process's OpenMP threads. Call it before torch is imported.

    Threads of a small convolution wait for each other by spinning. If another job uses the same core, they spin for
    whole time slices: two runs on one machine took 3 to 20 times as long.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
