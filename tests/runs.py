"""A run as `python main.py` makes it, within the test's own process: computed, then shown."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from refexp import experiment
from refexp.show.run import show_run


def run(config: DictConfig, output: Path) -> dict[str, float | None]:
    """The flat metrics; {} for stage=extract."""
    finished = experiment.run(config, output)
    if finished is None:
        return {}
    show_run(finished)
    return finished.record.metrics.flat
