"""This machine's processes: whether one lives, and how the threads of this one wait. It imports no library."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether a process of this machine lives; a zombie, which ended and whose parent has not asked how, does not."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True


def wait_briefly() -> None:
    """Shorten the loops in which this process's threads wait for each other. To be called before torch is imported.

    Threads of a small convolution wait for each other by spinning. On a core that another job wants too, they then spin
    for whole time slices: two runs on one machine took 3 to 20 times as long.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
