"""The checks of benchmarks/gpu.py: passed on the CPU, and on a GPU where there is one; each seen to fail."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import gpu
import gpu_checks
import gpu_speed
import pytest
import torch
from gpu_checks import GROUPS, Bench
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorDeviceMismatchError, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from refexp import masks
from refexp.encoders import dinov2
from refexp.encoders.dinov2 import DINOv2
from refexp.encoders.efficientnet import EfficientNetLite0
from refexp.machine import networks
from refexp.matchers.prototype import PrototypeMatcher
from refexp.method import pipeline, pooling
from refexp.postprocess.steps import ClassNMS, SoftMerge, TopK
from refexp.proposers import sam2
from refexp.proposers.sam2 import SAM2Proposer
from refexp.proposers.sam2_decoder import SharedDecoder

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(CPU, tmp_path_factory.mktemp("bench"), precisions=("float32",))


def failed(bench: Bench, group: str) -> list[str]:
    return [check.name for check in GROUPS[group](bench) if not check.ok]


@pytest.fixture
def one_process(monkeypatch):
    """Two ranks are compared in test_distributed.py."""
    monkeypatch.setattr(gpu_checks, "two_ranks", lambda bench, _: (bench.folder / "run 1/detections.json").read_bytes())


ON_THE_CPU = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "whole-image" else [])
    for name in GROUPS
    if "large" not in name and name != "out-of-memory"
]


@pytest.mark.parametrize("group", ON_THE_CPU)
def test_every_component_is_right_on_the_cpu(group, bench, one_process):
    assert not failed(bench, group)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
@pytest.mark.parametrize("group", GROUPS)
def test_every_component_is_right_on_a_gpu(group, tmp_path):
    assert not failed(Bench(GPU, tmp_path), group)


def after(change: Callable[[Any], Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function that does the same, and then spoils what came of it."""
    return lambda original: lambda *arguments, **settings: change(original(*arguments, **settings))


def on_masks(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function that gets other masks than it was given."""
    return lambda original: lambda masks, *more: original(change(masks), *more)


def transposed(tokens: torch.Tensor) -> torch.Tensor:
    side = round(tokens.shape[1] ** 0.5)
    return tokens.unflatten(1, (side, side)).transpose(1, 2).flatten(1, 2)


def in_bfloat16(original):
    return lambda device, precision="float32": original(device, "bfloat16")


def noisy(tokens: torch.Tensor) -> torch.Tensor:
    return tokens + 1e-2 * torch.randn(tokens.shape)


BREAKS = [
    ("dinov2-small", DINOv2, "forward", after(transposed), "DINOv2 vits14, float32"),
    ("dinov2-small", dinov2, "computing", in_bfloat16, "DINOv2 vits14, float32"),
    ("default-encoder", EfficientNetLite0, "forward", after(transposed), "EfficientNet-Lite0, float32"),
    ("default-encoder", EfficientNetLite0, "forward", after(lambda x: x.bfloat16()), "EfficientNet-Lite0, float32"),
    ("masks", gpu_checks, "pool_masks", on_masks(lambda m: m.mT), "pooling"),
    ("masks", gpu_checks, "low_res_boxes", on_masks(lambda m: m.mT), "low-resolution boxes"),
    ("masks", gpu_checks, "run_length_codes", on_masks(lambda m: ~m), "run lengths at 640 x 427"),
    ("masks", gpu_checks, "upscale_to_rle", on_masks(lambda m: m.flip(2)), "upscaling to 640 x 427"),
    ("matching", PrototypeMatcher, "match", lambda f: lambda self, p, b: f(self, p, shuffled(b)), "matcher"),
    ("matching", ClassNMS, "__call__", lambda f: lambda self, c, p: f(ClassNMS(0.6), c, p), "NMS"),
    ("matching", SoftMerge, "__call__", lambda f: lambda self, c, p: c, "soft merging"),
    ("matching", TopK, "__call__", lambda f: lambda self, c, p: c.pick(torch.arange(10)), "best 10"),
]  # fmt: skip
SLOW_BREAKS = [
    ("whole-run", pipeline, "pool_masks", after(noisy), "a run: same again; a run: its store again; a run: scores"),
    ("sam2-small", sam2, "computing", in_bfloat16, "sam2_hiera_t image encoder, float32"),
    ("sam2-small", sam2, "point_grid", after(lambda xy: xy.flip(1)), "sam2_hiera_t prompt encoder, float32"),
    ("sam2-small", SharedDecoder, "upscale", after(lambda x: x.mT), "sam2_hiera_t masks, float32"),
    ("sam2-small", SharedDecoder, "best", after(lambda x: (x[0] + 1e-3, x[1])), "sam2_hiera_t predicted IoU, float32"),
    ("sam2-small", sam2, "STABILITY", lambda _: 0.0, "sam2_hiera_t boxes to masks, float32"),
    ("whole-image", pipeline, "pool_masks", on_masks(lambda m: m.mT), "a whole image, float32: features"),
    ("whole-image", pipeline, "pool_masks", after(noisy), "a whole image, float32: same again"),
    ("whole-image", sam2, "point_grid", after(lambda xy: xy.flip(1)), "a whole image, float32: masks"),
]  # fmt: skip


def shuffled(bank):
    return type(bank)(bank.prototypes.roll(1, dims=0), bank.instances)


@pytest.mark.parametrize(
    ("group", "owner", "name", "spoil", "checks"),
    [*BREAKS, *(pytest.param(*row, marks=pytest.mark.slow) for row in SLOW_BREAKS)],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("one_process")
def test_a_broken_component_fails_its_checks(group, owner, name, spoil, checks, bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "folder", tmp_path)
    monkeypatch.setattr(owner, name, spoil(getattr(owner, name)))
    assert set(checks.split("; ")) <= set(failed(bench, group))


@pytest.fixture
def script(monkeypatch, tmp_path):
    """`script("--device", "cpu")` -> the exit code."""

    def start(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path), *arguments])
        return gpu.main()

    return start


def test_the_script_tells_what_it_found_as_it_goes(script, tmp_path, capsys):
    assert script("--device", "cpu", "--quick", "--only", "masks") == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert len(content["checks"]) > 5 and all(check["ok"] for check in content["checks"])
    said = capsys.readouterr().out
    assert f"{len(content['checks'])} checks, 0 off" in said
    assert all(check["name"] in said for check in content["checks"])
    assert (tmp_path / "gpu.md").read_text().startswith("**cpu")


def test_a_check_that_breaks_off_is_one_that_failed(script, tmp_path, monkeypatch):
    def wrong_shape(masks):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(gpu_checks, "low_res_boxes", wrong_shape)
    monkeypatch.setattr(gpu_checks, "pool_masks", lambda masks, tokens: tokens)  # of another shape: off by infinity
    assert script("--device", "cpu", "--quick", "--only", "masks") == 1
    pooled, broken = json.loads((tmp_path / "gpu.json").read_text())["checks"]
    assert (pooled["ok"], pooled["off"]) == (False, None)
    assert (broken["name"], broken["ok"]) == ("masks", False) and "no kernel image" in broken["error"]


def test_nothing_is_begun_when_the_time_is_over(tmp_path, bench, capsys):
    results = gpu.Results(tmp_path, CPU)
    gpu.check_all(bench, results, [], quick=True, end=0)
    gpu.time_all(CPU, results, quick=True, end=0, folder=tmp_path)
    assert results.content["checks"] == results.content["speed"] == []
    assert len(results.content["left out"]) == len(GROUPS) + 2
    assert "sam2-small: left out (no time)" in capsys.readouterr().out


def test_the_script_refuses_a_gpu_that_is_not_there(script, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script("--device", "cuda") == 2
    assert capsys.readouterr().err.startswith("error: --device=cuda: PyTorch")
    assert script("--device", "xyz") == 2
    assert "expected auto, cpu, cuda, or cuda:N" in capsys.readouterr().err


def test_nothing_checked_is_no_success(script, tmp_path):
    assert script("--device", "cpu", "--only", "out-of-memory") == 1
    assert "out-of-memory (needs a GPU)" in (tmp_path / "gpu.md").read_text()


@pytest.fixture
def pretended():
    """Tensors that say that they are on a GPU, and refuse to be read, counted or mixed with those of the CPU."""
    for cached in (networks.imagenet, pooling.upsampling_matrix):
        cached.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.empty(1, 3, 1024, 1024, device=GPU)
    for cached in (networks.imagenet, pooling.upsampling_matrix):
        cached.cache_clear()


def test_pretended_tensors_refuse(pretended):
    with pytest.raises(FakeTensorDeviceMismatchError):
        pretended + torch.empty(3, 1, 1)
    with pytest.raises(DynamicOutputShapeException):
        pretended.nonzero()


@pytest.fixture(scope="module")
def loaded():
    """Networks on the CPU: to be moved where nothing is computed."""
    encoders = [DINOv2("vits14", weights="random", input_size=56), EfficientNetLite0(input_size=64, weights="random")]
    proposer = SAM2Proposer("sam2_hiera_t", weights="random", points_per_side=4)
    for component in (*encoders, proposer):
        component.load(CPU)
    return encoders, proposer


class Transfers(TorchDispatchMode):
    """Counts operations that take a tensor from one device to another; numbers (0 dimensions) may be anywhere."""

    count = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        result = function(*arguments, **(settings or {}))
        tensors = (x for x in (*arguments, result) if isinstance(x, torch.Tensor) and x.ndim)
        self.count += len({tensor.device for tensor in tensors}) > 1
        return result


def test_all_of_an_image_stays_on_the_gpu_without_a_wait(loaded, pretended):
    """What decides how much work there is (which proposals are kept, run lengths) has to be read, and is left out."""
    encoders, proposer = loaded
    for network in (encoders[0].model, encoders[1].network, proposer.model):
        network.to(GPU)
    proposer.device, proposer.decoder = GPU, SharedDecoder(proposer.model.sam_mask_decoder)
    for encoder in encoders:
        encoder.encode(pretended)  # makes the constants
        with Transfers() as transfers:
            tokens = encoder.encode(pretended)
        assert tokens.device == GPU and not transfers.count
    proposals = torch.empty(70, 256, 256, dtype=torch.bool, device=GPU)
    assert pooling.pool_masks(proposals, tokens[0]).device == masks.low_res_boxes(proposals).device == GPU

    with torch.inference_mode():
        prompts = proposer.embed_prompts(proposer.points[:, None], (sam2.ON_OBJECT,))
        proposer.position = proposer.model.sam_prompt_encoder.get_dense_pe()
        square, rows = pretended[0].cpu(), torch.arange(16, device=GPU)
        with Transfers() as transfers:
            image = proposer.embed(square, no_mem_embed=True)
            tokens, state = proposer.decoder.attend(prompts, image)
            quality, hyper = proposer.decoder.best(tokens)
            logits = proposer.decoder.upscale(state, rows, hyper, image)
        assert transfers.count == 1  # the square's
    assert quality.device == proposer.decoder.single(tokens).device == logits.device == GPU
    assert logits.shape == (16, 256, 256)


@pytest.mark.slow
def test_an_image_is_timed_by_stage(tmp_path):
    row = gpu_speed.measure(CPU, "small", "float32", 3, 2, tmp_path, with_plain=True)
    assert {"read", "SAM2 encoder", "decoder", "upscaling", "run lengths", "DINOv2", "store"} <= row["stages"].keys()
    assert row["image"] == pytest.approx(sum(row["stages"].values()), rel=0.5)
    assert row["plain"] > 0 and row["into the store"] > 0 and row["busy"] is None
    assert "sam2_hiera_t+vits14 float32 3 of 4:" in " ".join(gpu.speed_line(row))
