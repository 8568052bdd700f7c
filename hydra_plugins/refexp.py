"""Hydra only takes launchers from this namespace; what they do stands in refexp/launchers.py."""

from refexp import launchers


class SerialLauncher(launchers.SerialLauncher):
    """hydra/launcher=serial."""


class LocalLauncher(launchers.LocalLauncher):
    """hydra/launcher=local_jobs."""


class SlurmLauncher(launchers.SlurmLauncher):
    """hydra/launcher=slurm."""
