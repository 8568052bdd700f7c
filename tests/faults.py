"""A matcher that fails in the ways that jobs do; tests put this folder on PYTHONPATH."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from refexp.matchers.prototype import PrototypeMatcher
from refexp.rank import this_rank


@dataclass(eq=False, kw_only=True)
class Faulty(PrototypeMatcher):
    """Behaves, raises, dies as if killed by the kernel, or waits for ever; on one rank if `rank` says which.

    Waiting, it first makes the file `flag`; started anew by SLURM it does not wait.
    """

    fault: Literal["none", "raise", "kill", "wait"]
    flag: str | None = None
    rank: int | None = None

    def match(self, proposals, bank):
        if self.rank in (None, this_rank().rank):
            if self.fault == "raise":
                raise ValueError("this matcher is broken on purpose")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "wait" and not os.environ.get("SLURM_RESTART_COUNT"):
                Path(self.flag).touch()
                time.sleep(3600)
        return super().match(proposals, bank)
