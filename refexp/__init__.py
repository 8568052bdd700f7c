"""Experiments with reference-based instance segmentation.

model = refexp.load("encoder=dinov2_vitl14", "proposer=sam2_hiera_l")
model.remember("refs/")
detections = model.predict("photo.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
