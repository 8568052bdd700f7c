"""DINOv2 from timm, with the official `.pth` files (METHOD 1.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from refexp.encoders.base import Encoder, View
from refexp.errors import RefexpError, first_line
from refexp.machine import checkpoints
from refexp.machine.networks import Precision, computing
from refexp.types import Weights

Arch = Literal[
    "vits14", "vitb14", "vitl14", "vitg14", "vits14_reg", "vitb14_reg", "vitl14_reg", "vitg14_reg"
]  # fmt: skip
TIMM_SIZE = {"vits14": "small", "vitb14": "base", "vitl14": "large", "vitg14": "giant"}
PATCH = 14


@dataclass(eq=False)
class DINOv2(Encoder):
    """Returns the patch tokens after the last norm. G = input_size / 14.

    batch: number of targets encoded together. Larger batches are faster on a GPU, but then the last digits depend on
        which images are in the same batch.
    precision: see `networks.computing`. Half precision is faster and less exact.
    compile: compile the network with torch.compile.
    weights: "official" reads the published file in `checkpoints_dir`. "random" is seeded, for tests and benchmarks.
    Source: METHOD 1.3; DINOv2, arXiv 2304.07193.
    Cost: one forward pass per image: 0.7 s (S) to 7 s (L) on two CPU cores (benchmarks/RESULTS.md).
    Raises RefexpError for a missing checkpoint, before the network is built.
    """

    arch: Arch
    checkpoints_dir: str = "checkpoints"
    weights: Literal["official", "random"] = "official"
    input_size: Annotated[int, Field(ge=PATCH, multiple_of=PATCH)] = 518
    reference_context: Annotated[float, Field(ge=0)] | None = 0.2
    reference_views: Sequence[View] = ()
    batch: Annotated[int, Field(ge=1)] = 1
    precision: Precision = "float32"
    compile: bool = False
    random_seed: int = 0

    def __post_init__(self) -> None:
        self.grid = self.input_size // PATCH
        self.file = checkpoints.locate(self.name, Path(self.checkpoints_dir)) if self.weights == "official" else None

    @property
    def name(self) -> str:
        """The name of the checkpoint."""
        return f"dinov2_{self.arch}"

    def provenance(self) -> Weights:
        return checkpoints.describe(self.name, self.file) if self.file else Weights.random()

    def load(self, device: torch.device) -> None:
        import timm

        base, _, registers = self.arch.partition("_")
        timm_name = f"vit_{TIMM_SIZE[base]}_patch14_{'reg4_' if registers else ''}dinov2"
        overlay = {"file": str(self.file)} if self.file else {}
        try:
            with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
                torch.manual_seed(self.random_seed)
                model = timm.create_model(
                    timm_name,
                    pretrained=self.file is not None,
                    pretrained_cfg_overlay=overlay,
                    num_classes=0,
                    img_size=self.input_size,
                )
        except (RuntimeError, KeyError, EOFError, OSError) as error:
            raise RefexpError(f"{self.file} does not contain the weights of {self.name}: {first_line(error)}") from None
        self.model: Any = model.eval().requires_grad_(False).to(device)
        features: Any = self.model.forward_features
        self.features = torch.compile(features) if self.compile else features

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        with computing(inputs.device, self.precision):
            tokens = self.features(inputs)
        return tokens[:, self.model.num_prefix_tokens :].float()
