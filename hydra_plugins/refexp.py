"""Registers the launchers with Hydra, which finds plugins only in this namespace. See refexp/cluster/launchers.py.

Every Hydra application in the environment imports this file at its start, so this file must not import refexp then.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Late:
    """Delegates to the class with the same name in `module`."""

    module = "refexp.cluster.launchers"

    def __init__(self, **params: Any) -> None:
        self.launcher = getattr(import_module(self.module), type(self).__name__)(**params)

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


class PlanLauncher(Late, Launcher):
    """hydra/launcher=plan."""

    module = "refexp.cluster.plan"
