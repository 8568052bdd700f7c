"""Hydra only takes launchers from this namespace; what they do stands in refexp/launchers.py.

Any Hydra application of the environment imports this file when it starts, so it imports nothing of refexp by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Late:
    """Hands all to the class of refexp.cluster.launchers that is called the same."""

    def __init__(self, **params: Any) -> None:
        from refexp.cluster import launchers

        self.launcher = getattr(launchers, type(self).__name__)(**params)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return self.launcher.launch(job_overrides, initial_job_idx)


class SerialLauncher(Late, Launcher):
    """hydra/launcher=serial."""


class LocalLauncher(Late, Launcher):
    """hydra/launcher=local_jobs."""


class SlurmLauncher(Late, Launcher):
    """hydra/launcher=slurm."""
