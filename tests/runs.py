"""Runs and commands within the test's own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cluster import free_ports
from conftest import ROOT
from omegaconf import DictConfig

from refexp.command import group
from refexp.experiment import run as experiment
from refexp.show.run import show_run

MAIN = ROOT / "main.py"


def refexp(*words: object) -> int:
    """`refexp WORDS`: the exit code."""
    try:
        group.main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)


def run(config: DictConfig, output: Path) -> dict[str, float | None]:
    """A run as `python main.py` makes it, computed, then shown: its flat metrics, {} for stage=extract."""
    finished = experiment.run(config, output)
    if finished is None:
        return {}
    show_run(finished)
    return finished.record.metrics.flat


def ranks(count: int, arguments: list[str], tmp_path: Path, script: Path = MAIN) -> list[subprocess.Popen[str]]:
    """`count` processes as srun or torchrun would start them, but with nobody who watches over them."""
    (port,) = free_ports(1)
    shared = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "COLUMNS": "160",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, str(script), *arguments],
            cwd=tmp_path,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(count)
    ]


def outputs(processes: list[subprocess.Popen[str]], seconds: float = 240) -> list[str]:
    return [process.communicate(timeout=seconds)[0] for process in processes]
