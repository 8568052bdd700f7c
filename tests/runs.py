"""Runs and commands within the test's own process."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from refexp import experiment
from refexp.command import group
from refexp.show.run import show_run


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
