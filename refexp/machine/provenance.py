"""Provenance of a result: versions, commit, device, time and memory."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from refexp.types import Weights

PACKAGES = ("refexp", "torch", "torchvision", "timm", "sam2", "pycocotools", "numpy", "hydra-core", "scikit-image")


class Clock:
    """Seconds and items per stage of a run. `other` is what is in no stage.

    Seconds of a stage are without those of stages inside it, so their sum is the run's time.
    """

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: dict[str, float] = defaultdict(float)
        self.items: dict[str, int] = defaultdict(int)

    @contextmanager
    def stage(self, name: str, items: int = 1) -> Iterator[None]:
        """Add the time spent in the block to the stage `name`."""
        start, inside = time.perf_counter(), self.total()
        yield
        self.add(name, time.perf_counter() - start - (self.total() - inside), items)

    def total(self) -> float:
        """Return the seconds of all stages so far."""
        return sum(self.seconds.values())

    def add(self, name: str, seconds: float, items: int) -> None:
        """Add to the stage `name`."""
        self.seconds[name] += seconds
        self.items[name] += items

    def report(self) -> dict[str, dict[str, float]]:
        other = time.perf_counter() - self.start - self.total()
        return {
            name: {"seconds": round(s, 4), "items": self.items[name], "per_second": round(self.items[name] / s, 4)}
            for name, s in [*self.seconds.items(), ("other", other)]
            if s > 0
        }


@cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that can change results."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@cache
def commit() -> str | None:
    """The checkout's commit, with `-dirty` if there are uncommitted changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--match="],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None


def peak_memory_mib(device: torch.device) -> dict[str, float]:
    """Peak resident memory of this process in MiB, and of the device if it is a GPU."""
    # ru_maxrss is in bytes on macOS and in KiB elsewhere.
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    peak = {"process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    if device.type == "cuda":
        peak["cuda"] = round(torch.cuda.max_memory_allocated(device) / (1 << 20), 1)
    return peak


def device_name(device: torch.device) -> str:
    """`cpu (2 threads)` or the GPU's name."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_how(device: torch.device, clock: Clock, ranks: int) -> dict[str, Any]:
    """All provenance facts for the run record. Seconds and memory are those of rank 0."""
    return {
        "ranks": ranks,
        "stages": clock.report(),
        "peak_memory_mib": peak_memory_mib(device),
        "device": device_name(device),
        "versions": versions(),
        "commit": commit(),
    }


def weights_note(weights: dict[str, Weights]) -> str | None:
    """The warning that every output shows if the weights are not the published ones; None if they are."""
    random = [name for name, source in weights.items() if source.kind == "random"]
    if random:
        return f"RANDOM WEIGHTS ({', '.join(random)}): the results of this run mean nothing."
    other = [source.origin for source in weights.values() if source.kind == "other"]
    return f"{'; '.join(other)}: not the published weights." if other else None
