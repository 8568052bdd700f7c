"""DINOv2 at real architecture, seeded random weights, official checkpoint layout."""

from __future__ import annotations

import pytest
import torch
from weights import save_dinov2

from refexp.encoders.dinov2 import DINOv2
from refexp.errors import RefexpError

CPU = torch.device("cpu")


@pytest.mark.parametrize("arch", ["vits14", "vits14_reg"])
def test_reads_the_official_layout(arch, tmp_path):
    written = save_dinov2(arch, tmp_path, seed=1)
    encoder = DINOv2(arch, checkpoints_dir=str(tmp_path))
    encoder.load(CPU)
    weights = encoder.provenance()
    assert "UNOFFICIAL" in weights.origin  # the file name is right, its SHA-256 is not
    assert weights.sha256
    image = torch.rand(1, 3, 300, 400, generator=torch.Generator().manual_seed(0))
    tokens = encoder.encode(image)
    assert tokens.shape == (1, 37 * 37, 384)
    torch.testing.assert_close(tokens, written.encode(image), atol=1e-4, rtol=1e-4)


def test_tokens_are_normed_patches_in_row_order(tmp_path):
    encoder = DINOv2("vits14_reg", weights="random", input_size=56)
    encoder.load(CPU)
    tokens = encoder.encode(torch.rand(2, 3, 56, 56))
    assert tokens.shape == (2, 16, 384)
    norm = encoder.model.norm
    restored = (tokens - norm.bias) / norm.weight
    torch.testing.assert_close(restored.std(dim=-1, correction=0), torch.ones(2, 16), atol=1e-2, rtol=0)


def test_random_weights_are_seeded_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    image, tokens = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0)), []
    for seed in (0, 0, 1):
        encoder = DINOv2("vits14", weights="random", input_size=28, random_seed=seed)
        encoder.load(CPU)
        tokens.append(encoder.encode(image))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


def test_bfloat16_is_close():
    tokens = []
    for precision in ("float32", "bfloat16"):
        encoder = DINOv2("vits14", weights="random", input_size=56, precision=precision)
        encoder.load(CPU)
        tokens.append(encoder.encode(torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))))
    assert tokens[1].dtype == torch.float32
    assert not torch.equal(*tokens)
    assert torch.nn.functional.cosine_similarity(*tokens, dim=-1).min() > 0.999


def test_a_batch_of_targets_gives_what_single_ones_give():
    encoder = DINOv2("vits14", weights="random", input_size=56, batch=3)
    encoder.load(CPU)
    images = torch.rand(3, 3, 100, 100, generator=torch.Generator().manual_seed(0))
    single = torch.cat([encoder.encode(image[None]) for image in images])
    torch.testing.assert_close(encoder.encode(images), single, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_compiled_is_close():
    tokens = []
    for compiled in (False, True):
        encoder = DINOv2("vits14", weights="random", input_size=56, compile=compiled)
        encoder.load(CPU)
        tokens.append(encoder.encode(torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))))
    torch.testing.assert_close(*tokens, atol=1e-3, rtol=0)


def test_missing_checkpoint_is_named_at_once(tmp_path):
    with pytest.raises(RefexpError, match=r"dinov2_vitb14_reg4_pretrain\.pth"):
        DINOv2("vitb14_reg", checkpoints_dir=str(tmp_path))


def test_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(RefexpError, match=r"dinov2_vits14_pretrain.pth does not contain the weights of dinov2_vits14"):
        DINOv2("vits14", checkpoints_dir=str(tmp_path)).load(CPU)


def test_checkpoint_of_another_size_is_named(tmp_path):
    save_dinov2("vits14", tmp_path)
    (tmp_path / "dinov2_vits14_pretrain.pth").rename(tmp_path / "dinov2_vitb14_pretrain.pth")
    with pytest.raises(RefexpError, match="does not contain the weights of dinov2_vitb14"):
        DINOv2("vitb14", checkpoints_dir=str(tmp_path)).load(CPU)
