"""Registers launchers, sweeper and the options of packages with Hydra, which finds plugins only in this namespace.

Every Hydra application in the environment imports this file at its start, so this file must not import refexp then.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptionsOfPackages(SearchPathPlugin):
    """Adds the options of installed packages to those of refexp, and to no other application."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        main = next((part.path for part in search_path.get_path() if part.provider == "main"), None) or ""
        if (Path(main.removeprefix("file://")) / "hydra" / "plumbing.yaml").exists():
            from refexp.config.plugins import option_folders

            for name, folder in option_folders().items():
                search_path.append(provider=name, path=f"file://{folder}")


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


class GridSweeper(BasicSweeper):
    """hydra/sweeper=grid: all combinations of the values. `sweep.zip` lists keys whose values go in pairs instead."""

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        from refexp.cluster.pairs import in_pairs

        assert self.config is not None
        parts = in_pairs(overrides, (self.config.get("sweep") or {}).get("zip") or ())
        jobs = [job for part in parts for batch in BasicSweeper.split_arguments(part, None) for job in batch]
        return list(self.split_overrides_to_chunks(jobs, max_batch_size))

    def validate_batch_is_legal(self, batch: list[list[str]]) -> None:
        """Nothing: the launcher composes all jobs before it starts one, and composing takes long."""
