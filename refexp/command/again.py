"""`refexp export RUN`: what a run has not kept is made again from the store."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import OmegaConf

from refexp.errors import RefexpError
from refexp.experiment.run import run
from refexp.folders.run_folder import RunFolder
from refexp.show.run import standing_in

AS_BEFORE = {"stage": "ablate", "detections": "json", "published_detections": False, "logger": None}
"""Settings with which a run is computed again: from the store alone."""


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Within, log only warnings and errors of a module."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def make_detections(folder: Path) -> Path:
    """Write detections.json into a run's folder. Returns its path.

    Raises RefexpError if the store lacks something, or if the metrics are no longer those of the run.
    """
    record, path = RunFolder(folder).record, folder / "detections.json"
    config = OmegaConf.create(record.config | AS_BEFORE)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".again-") as place, standing_in(record.cwd):
        with quiet("refexp.experiment.run"):  # it would tell of the temporary folder
            again = run(config, Path(place))
        if again is None or again.record.metrics.flat != record.metrics.flat:
            raise RefexpError(f"{folder}: made again, the run has other metrics: data, weights or code have changed.")
        (again.path / path.name).replace(path)
    return path
