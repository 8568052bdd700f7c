"""Reference-based instance segmentation experiments.

model = refexp.load("encoder=dinov2_vitl14", "proposer=sam2_hiera_l")
model.remember("refs/")
found = model.predict("photo.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from refexp.api import Model

__version__ = "0.1.0"


def load(*overrides: str) -> Model:
    """A model with its networks loaded; overrides as on the command line, none for the embedded default.

    Raises RefexpError for a mistake in them. See `refexp.api.Model`.
    """
    from refexp import api  # imports torch, which `import refexp` need not wait for

    return api.load(*overrides)
