"""Which rank of a run this process is, read from a complete and checked set of torchrun's or srun's variables.

A set that is incomplete or impossible is a leftover of another program. Believed, it lets a run wait for ranks that do
not exist, so it is refused, with the line that removes it.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from functools import cache

from refexp.errors import RefexpError

SCONTROL_SECONDS = 5.0


@dataclass(frozen=True)
class Rank:
    """This process among the ranks of its run, and among those on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    starter: str = "alone"


class Variables:
    """Environment variables that `starter` sets. `names` are those to unset if something is wrong."""

    def __init__(self, starter: str, *names: str) -> None:
        self.starter, self.names = starter, names

    def text(self, name: str, like: str = r".*\S.*", what: str = "a name") -> str:
        """A variable's value. Raises RefexpError if it is missing or not `like` this pattern."""
        value = os.environ.get(name)
        if value is None or not re.fullmatch(like, value):
            raise self._refusal(name, what)
        return value

    def number(self, name: str, least: int = 0, most: int = 2**31 - 1) -> int:
        """A variable's value, a whole number within these bounds."""
        what = f"a whole number from {least} to {most}"
        number = int(self.text(name, "[0-9]{1,10}", what))
        if not least <= number <= most:
            raise self._refusal(name, what)
        return number

    def _refusal(self, name: str, what: str) -> RefexpError:
        problem = f"{name}={os.environ[name]!r} is not {what}" if name in os.environ else f"{name} is missing"
        there = [other for other in self.names if other in os.environ]
        others = ", ".join(f"{other}={os.environ[other]!r}" for other in there if other != name)
        beside = f" (beside {others})" if others else ""
        return RefexpError(f"{problem}{beside}: unset {' '.join(there)}, or start with {self.starter}.")


TORCHRUN = Variables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SRUN = Variables("srun", "SLURM_STEP_NUM_TASKS")
SBATCH = Variables("sbatch", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT")


@cache
def this_rank() -> Rank:
    """The rank that torchrun or srun made this process. Raises RefexpError if their variables cannot be true.

    torchrun inside SLURM counts as torchrun. A process in an allocation (salloc, sbatch) but outside srun is alone.
    MASTER_ADDR and MASTER_PORT on their own are ignored: they say where ranks meet, not that there are any.
    """
    scheduler_id()  # the status file needs them: refuse them here, before anything starts
    restarts()
    in_step = "SLURM_STEP_NUM_TASKS" in os.environ and "RANK" not in os.environ
    if in_step and SRUN.number("SLURM_STEP_NUM_TASKS", 1) > 1:
        return by_srun()
    return by_torchrun() if any(name in os.environ for name in TORCHRUN.names[:4]) else Rank()


def by_torchrun() -> Rank:
    """The rank in torchrun's variables. Other launchers set them too, some without LOCAL_*: then one rank a machine."""
    world_size = TORCHRUN.number("WORLD_SIZE", 1)
    rank = TORCHRUN.number("RANK", 0, world_size - 1)
    TORCHRUN.text("MASTER_ADDR")
    TORCHRUN.number("MASTER_PORT", 1, 65535)
    if not os.environ.keys() & {"LOCAL_RANK", "LOCAL_WORLD_SIZE"}:
        return Rank(rank, world_size, starter="torchrun")
    local_world_size = TORCHRUN.number("LOCAL_WORLD_SIZE", 1, world_size)
    local_rank = TORCHRUN.number("LOCAL_RANK", 0, local_world_size - 1)
    return Rank(rank, world_size, local_rank, local_world_size, "torchrun")


def by_srun() -> Rank:
    """The rank in srun's variables. Where nodes have different numbers of tasks, all use the largest."""
    world_size = SRUN.number("SLURM_STEP_NUM_TASKS", 1)
    rank = SRUN.number("SLURM_PROCID", 0, world_size - 1)
    count = r"[1-9][0-9]{0,5}(\(x[0-9]+\))?"
    counts = SRUN.text("SLURM_STEP_TASKS_PER_NODE", f"{count}(,{count})*", "a list such as 4(x2),3")
    local_world_size = max(int(part.split("(")[0]) for part in counts.split(","))
    local_rank = SRUN.number("SLURM_LOCALID", 0, local_world_size - 1)
    SRUN.text("SLURM_STEP_NODELIST")
    SRUN.number("SLURM_JOB_ID")
    return Rank(rank, world_size, local_rank, local_world_size, "srun")


def scheduler_id() -> str | None:
    """SLURM's name of the job this process is part of, `123` or `123_4`."""
    if os.environ.get("SLURM_ARRAY_JOB_ID"):
        return f"{SBATCH.number('SLURM_ARRAY_JOB_ID')}_{SBATCH.number('SLURM_ARRAY_TASK_ID')}"
    return os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often SLURM has queued this job again."""
    return SBATCH.number("SLURM_RESTART_COUNT") if os.environ.get("SLURM_RESTART_COUNT") else 0


def meeting_point(starter: str) -> tuple[str, int]:
    """Host and port at which the ranks meet: torchrun's, or for srun the step's first node and a port made of its ids.

    Raises RefexpError if SLURM does not say.
    """
    if starter == "torchrun":
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    first = scontrol(r"(\S+)", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"])
    # The address by which SLURM itself reaches the node: other nodes need not be able to resolve its name.
    address = scontrol(r"NodeAddr=(\S+)", "--oneliner", "show", "node", first)
    step = os.environ.get("SLURM_STEP_ID", "")
    return address, 20000 + (int(os.environ["SLURM_JOB_ID"]) * 7 + (int(step) if step.isdecimal() else 0)) % 20000


def scontrol(wanted: str, *arguments: str) -> str:
    """What SLURM's control command answers, as far as it is wanted. Raises RefexpError if it does not within 5 s."""
    try:
        done = subprocess.run(
            ["scontrol", *arguments], capture_output=True, encoding="utf-8", errors="replace",
            timeout=SCONTROL_SECONDS, check=False,
        )  # fmt: skip
        found = re.search(wanted, done.stdout)
        if found and not done.returncode:
            return found[1]
        why = " ".join((done.stderr or done.stdout).split()) or "it answered nothing"
    except subprocess.TimeoutExpired:
        why = f"no answer within {SCONTROL_SECONDS:.0f} s"
    except OSError as error:
        why = str(error)
    command = " ".join(["scontrol", *arguments])
    raise RefexpError(f"the ranks cannot meet, for `{command}` failed: {why}. Check SLURM (`sinfo`).")
