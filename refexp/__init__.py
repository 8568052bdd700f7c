"""Experiments with reference-based instance segmentation.

model = refexp.load("encoder=dinov2_vitl14", "proposer=sam2_hiera_l")
model.remember("refs/")
detections = model.predict("photo.jpg")

runs = refexp.sweep({"shots": [1, 5, 10], "seed": range(3)}, dataset="synthetic")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd

    from refexp.api import Model

__version__ = "0.1.0"


def load(*overrides: str) -> Model:
    """Build a model and load its networks.

    Args:
        overrides: config overrides as on the command line. The keys encoder, proposer, matcher, postprocess, weights,
            precision, compile, checkpoints and runtime have an effect. Without overrides, the default config is used.

    Returns:
        A model without classes. Call `Model.remember` next.

    Raises:
        RefexpError: an override is invalid, or a checkpoint or package is missing.

    Example:
        >>> import refexp
        >>> model = refexp.load("proposer.max_proposals=50")
        >>> model.classes
        ()
    """
    from refexp import api  # imports torch, which would slow down `import refexp`

    return api.load(*overrides)


def sweep(grid: Mapping[str, Any], folder: str | Path | None = None, **settings: Any) -> pd.DataFrame:
    """Run all combinations of some values, as `refexp run -m` does.

    Args:
        grid: for each key its values, as a list, range or array, or a single value.
        folder: folder of the sweep; None makes a new one in outputs/. With the folder of an earlier sweep, only what
            it lacks is run.
        settings: further keys, with one value each. Keys with dots: `**{"proposer.iou_threshold": 0.8}`.

    Returns:
        One row for each run in the folder: job, the settings in which runs differ, state, metrics as fractions (missing
        where a run has none), and its folder.

    Raises:
        RefexpError: an override is invalid, or does not fit the sweep in the folder. A run that fails does not raise.
    """
    from refexp.cluster import from_python  # imports pandas

    return from_python.sweep(grid, folder, settings)
