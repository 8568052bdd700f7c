"""Compare every component on a device with a plain implementation on the CPU in float32.

A check has one number (the difference) and a limit. Networks have RANDOM weights and real architectures. Norms, biases
and layer scales are perturbed, because random initialisation leaves them at 0 and 1.
"""

from __future__ import annotations

import copy
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import plain
import timm
import torch
import torch.nn.functional as F
from common import PAIRS, make_target, random_masks, some_bank
from pycocotools import mask as coco_mask
from torch import Tensor

from refexp.command.job import advising
from refexp.config.composing import compose_config
from refexp.encoders.base import Encoder
from refexp.encoders.dinov2 import DINOv2
from refexp.encoders.efficientnet import EfficientNetLite0
from refexp.errors import RefexpError
from refexp.experiment.run import run
from refexp.machine.networks import computing
from refexp.masks import decode, low_res_boxes, upscale_to_rle
from refexp.matchers.prototype import PrototypeMatcher
from refexp.method import pipeline
from refexp.method.extraction import pack
from refexp.method.memory import build_bank
from refexp.method.pooling import pool_masks
from refexp.postprocess.steps import ClassNMS, SoftMerge, TopK
from refexp.proposers import sam2
from refexp.proposers.sam2 import SAM2Proposer
from refexp.run_lengths import run_length_codes
from refexp.store.entries import Store
from refexp.types import Candidates, Proposals

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent
LIMIT = {"float32": 2e-5, "tf32": 5e-3, "bfloat16": 3e-2, "float16": 5e-3}
"""Relative norm of the difference to the CPU in float32. TF32 instead of float32 has a difference of about 5e-4."""
IOU_LIMIT = {"float32": 1e-5, "tf32": 2e-4, "bfloat16": 1e-3, "float16": 2e-4}
"""Absolute difference of predicted IoUs."""
MASK_LIMIT = {"float32": 5e-5, "tf32": 2e-2, "bfloat16": 1e-1, "float16": 2e-2}
"""1 - IoU of masks, mean over masks. Random weights give noisy masks, whose pixels flip easily."""


@dataclass(frozen=True)
class Check:
    """One comparison. off: difference between the device's result and the expected one. limit: maximum difference."""

    name: str
    off: float
    limit: float
    measure: str

    @property
    def ok(self) -> bool:
        return self.off <= self.limit  # NaN is not


def norm(found: Tensor, expected: Tensor) -> float:
    """The relative norm of the difference."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).norm() / expected.norm()) if found.shape == expected.shape else float("inf")


def apart(found: np.ndarray, expected: np.ndarray) -> float:
    """1 - IoU of bool masks [M, H, W], mean over M."""
    if found.shape != expected.shape:
        return float("inf")
    both, either = (found & expected).sum(axis=(1, 2)), (found | expected).sum(axis=(1, 2))
    return float(1 - np.mean(both / np.maximum(either, 1)))


@dataclass
class Bench:
    """Device, images and networks of the checks.

    folder: output folder. precisions: precisions to check. A CPU has no TF32 and takes minutes for SAM2 in float16.
    """

    device: torch.device
    folder: Path
    precisions: tuple[str, ...] = ()
    models: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gpu = self.device.type == "cuda"
        known = ("float32", "tf32", "bfloat16", "float16") if self.gpu else ("float32", "bfloat16")
        self.precisions = self.precisions or known

    @cached_property
    def target(self) -> Any:
        return make_target()

    def encoder(self, size: str, device: torch.device) -> DINOv2:
        """DINOv2 with perturbed weights, the same on every device."""
        encoder = DINOv2(PAIRS[size][1], weights="random", input_size=518 if self.gpu else 224)
        with mock.patch.object(timm, "create_model", self._once(f"DINOv2 {size}", timm.create_model)):
            encoder.load(device)
        return encoder

    def proposer(self, size: str, device: torch.device, points_per_side: int) -> SAM2Proposer:
        """SAM2 with perturbed weights, the same on every device; every point passes the threshold."""
        proposer = SAM2Proposer(PAIRS[size][0], weights="random", points_per_side=points_per_side, iou_threshold=0.0)
        with mock.patch.object(sam2, "build_sam2", self._once(f"SAM2 {size}", sam2.build_sam2)):
            proposer.load(device)
        return proposer

    def _once(self, name: str, build: Callable[..., Any]) -> Callable[..., Any]:
        def built(*arguments: Any, **settings: Any) -> Any:
            if name not in self.models:
                self.models[name] = perturbed(build(*arguments, **settings))
            return copy.deepcopy(self.models[name])

        return built


def perturbed(model: torch.nn.Module) -> torch.nn.Module:
    """Add noise to all parameters with one value per channel. Returns the model."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def in_precision(component: Any, precision: str) -> Any:
    """A component with the same network in another precision."""
    other = copy.copy(component)
    other.precision = precision
    return other


def default_encoder(bench: Bench) -> Iterator[Check]:
    """Check the encoder of the embedded default."""
    reference, encoder = EfficientNetLite0(), EfficientNetLite0()
    reference.load(CPU)
    encoder.load(bench.device)
    image = bench.target.square[None, :, :512, :640]  # not square: a transposed grid shows
    with torch.inference_mode():
        expected = plain.efficientnet_tokens(reference.network, image, encoder.input_size, encoder.blocks)
    yield encoded("EfficientNet-Lite0", encoder, image.to(bench.device), expected, "float32")


def encoded(name: str, encoder: Encoder, image: Tensor, expected: Tensor, precision: str) -> Check:
    return Check(f"{name}, {precision}", norm(encoder.encode(image), expected), LIMIT[precision], "relative norm")


def dinov2(bench: Bench, size: str) -> Iterator[Check]:
    """Check DINOv2 in every precision."""
    reference, encoder = bench.encoder(size, CPU), bench.encoder(size, bench.device)
    image = bench.target.square[None, :, :512, :640]
    with torch.inference_mode():
        expected = plain.dinov2_tokens(reference.model, image)
    for precision in dict.fromkeys((*bench.precisions, "float16")):
        rough = in_precision(encoder, precision)
        yield encoded(f"DINOv2 {PAIRS[size][1]}", rough, image.to(bench.device), expected, precision)


@torch.inference_mode()
def sam2_networks(bench: Bench, size: str) -> Iterator[Check]:
    """Check SAM2's image encoder, prompt encoder, decoder, and masks of boxes, in every precision."""
    name, square = PAIRS[size][0], bench.target.square
    reference, proposer = bench.proposer(size, CPU, 4), bench.proposer(size, bench.device, 4)
    points = plain.point_grid(4)[:, None]
    image = plain.embed(reference.model, square)
    logits, ious = plain.decode(reference.model, points, (1,), image, several=True)
    boxes = torch.tensor([[10.0, 20, 600, 400], [300, 100, 420, 180], [0, 0, 640, 427]])
    in_boxes = plain.masks_in_boxes(reference.model, square, boxes, bench.target.size).numpy()
    prompts = reference.model.sam_prompt_encoder(
        points=(points, torch.ones(16, 1, dtype=torch.int32)), boxes=None, masks=None
    )[0]
    yield Check(f"{name} prompt encoder, float32", norm(proposer.prompts, prompts), LIMIT["float32"], "relative norm")
    for precision in bench.precisions:
        rough = in_precision(proposer, precision)
        seen: list[Any] = []
        with listening(rough.model, "forward_image", seen):
            found = rough.propose(bench.target)
        maps = zip(reversed(seen[0]["backbone_fpn"]), [image[0], *reversed(image[1])], strict=True)
        worst = max(norm(a, b) for a, b in maps)
        yield Check(f"{name} image encoder, {precision}", worst, LIMIT[precision], "relative norm")
        if precision == "tf32" and torch.cuda.get_device_capability(bench.device) >= (8, 0):
            yield Check(f"{name}: tf32 is on", float(worst < 5e-5), 0, "1 if as exact as float32")
        off = float((found.quality.cpu() - ious.amax(dim=1)).abs().max()) if len(found) == len(ious) else float("inf")
        yield Check(f"{name} predicted IoU, {precision}", off, IOU_LIMIT[precision], "absolute")
        off = to_closest(found.masks_lr.cpu(), logits > 0)
        yield Check(f"{name} masks, {precision}", off, MASK_LIMIT[precision], "1 - IoU")
        if bench.gpu or precision == "float32":
            off = apart(decode(rough.masks_in_boxes(bench.target, boxes)), in_boxes)
            yield Check(f"{name} boxes to masks, {precision}", off, MASK_LIMIT[precision], "1 - IoU")


def listening(owner: Any, name: str, results: list[Any]) -> Any:
    """A patch that records the return values of `owner.name`."""
    original = getattr(owner, name)

    def listened(*arguments: Any) -> Any:
        results.append(original(*arguments))
        return results[-1]

    return mock.patch.object(owner, name, listened)


def to_closest(found: Tensor, several: Tensor) -> float:
    """1 - IoU of masks [M, h, w] and the closest of three candidates each, because rounding may swap near-equals."""
    if len(found) != len(several):
        return float("inf")
    both = (found[:, None] & several).flatten(2).sum(dim=2)
    either = (found[:, None] | several).flatten(2).sum(dim=2)
    return float(1 - (both / either.clamp(min=1)).amax(dim=1).mean())


@torch.inference_mode()
def mask_operations(bench: Bench) -> Iterator[Check]:
    """Check pooling, boxes, upscaling and run-length encoding."""
    logits, _ = random_masks(40)
    tokens = torch.randn(37 * 37, 64, generator=torch.Generator().manual_seed(1)) + 0.3
    there = logits.to(bench.device)
    with computing(bench.device):
        features = pool_masks(there > 0, tokens.to(bench.device))
    yield Check("pooling", norm(features, plain.mask_features(logits, tokens)), LIMIT["float32"], "relative norm")
    off = float((low_res_boxes(there > 0).cpu() - plain.boxes_of(logits > 0)).abs().max())
    yield Check("low-resolution boxes", off, 0, "pixels")
    for size in ((427, 640), (640, 427), (255, 257), (1300, 900)):
        full = F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False, antialias=True)[:, 0] > 0
        off = apart(decode(upscale_to_rle(there, size)), full.numpy())
        yield Check(f"upscaling to {size[1]} x {size[0]}", off, 1e-5, "1 - IoU")
        codes = run_length_codes(full.to(bench.device))
        expected = coco_mask.encode(np.asfortranarray(full.permute(1, 2, 0).numpy(), dtype=np.uint8))
        wrong = sum(code != rle["counts"] for code, rle in zip(codes, expected, strict=True))
        yield Check(f"run lengths at {size[1]} x {size[0]}", wrong, 0, "codes that differ from pycocotools'")


@torch.inference_mode()
def matching(bench: Bench) -> Iterator[Check]:
    """Check similarity, matcher, NMS and all steps. refexp computes them on the CPU from the device's features."""
    logits, ious = random_masks(200)
    tokens = torch.randn(37 * 37, 64, generator=torch.Generator().manual_seed(1)) + 0.3
    there, bank = logits.to(bench.device), some_bank(64)
    with computing(bench.device):
        features = pool_masks(there > 0, tokens.to(bench.device)).cpu()
        masks = upscale_to_rle(there, (427, 640))
    proposals = Proposals(ious, low_res_boxes(there > 0).cpu(), features, masks, (427, 640))
    exact = plain.mask_features(logits, tokens)
    similarity = (exact @ bank.prototypes.T).clamp(min=0)
    matched = PrototypeMatcher().match(proposals, bank)
    yield Check("similarity", norm(matched.scores, similarity.amax(dim=1)), LIMIT["float32"], "relative norm")
    yield Check("matcher", wrong_rows(matched.labels, similarity.argmax(dim=1)), 0, "labels that differ")
    kept = ClassNMS()(matched, proposals)
    rows = plain.suppress(similarity.argmax(dim=1), ious, plain.boxes_of(logits > 0))
    rows = rows[similarity.amax(dim=1)[rows] > 0]
    yield Check("NMS", wrong_rows(kept.index, rows), 0, "rows that differ")
    chosen = Candidates(rows, similarity.argmax(dim=1)[rows], similarity.amax(dim=1)[rows])
    full = torch.from_numpy(decode([masks[row] for row in rows.tolist()]))
    order, scores = plain.merge(full, exact[rows], chosen.labels, chosen.scores, k=len(rows))
    merged = SoftMerge()(chosen, proposals)
    off = float((merged.scores[order] - scores).abs().max())
    yield Check("soft merging", off, 1e-4, "scores, absolute")
    top = TopK(10)(merged, proposals)
    yield Check("best 10", wrong_rows(top.index, rows[order[:10]]), 0, "rows that differ")


def wrong_rows(found: Tensor, expected: Tensor) -> float:
    return float((found != expected).sum()) if found.shape == expected.shape else float("inf")


@torch.inference_mode()
def whole_image(bench: Bench) -> Iterator[Check]:
    """Compare `pipeline.extract` and `detect` on a photo with the plain implementation on the CPU."""
    points = 8 if bench.gpu else 4
    reference = bench.proposer("small", CPU, points), bench.encoder("small", CPU)
    proposer, encoder = bench.proposer("small", bench.device, points), bench.encoder("small", bench.device)
    target = bench.target
    logits, ious = plain.propose(reference[0].model, target.square, plain.point_grid(points), 32, 0.0)
    tokens = plain.dinov2_tokens(reference[1].model, target.square[None])[0]
    features = plain.mask_features(logits, tokens)
    bank = build_bank([features[:1], features[5:6], features[10:11]])  # so that something is detected
    full = F.interpolate(logits[:, None], size=target.size, mode="bilinear", antialias=True)[:, 0] > 0
    for precision in ("float32", "bfloat16") if bench.gpu else ("float32",):
        rough = [in_precision(network, precision) for network in (encoder, proposer)]
        (found,), (again,) = (pipeline.extract([target], *rough, bench.device) for _ in range(2))
        name = f"a whole image, {precision}"
        first, second = (pack(proposals, "float32") for proposals in (found, again))
        yield Check(
            f"{name}: same again", sum(not np.array_equal(first[k], second[k]) for k in first), 0, "arrays that differ"
        )
        yield Check(f"{name}: proposals", abs(len(found) - len(ious)), 0, "number")
        if len(found) != len(ious):
            continue
        yield Check(f"{name}: predicted IoUs", norm(found.quality, ious), IOU_LIMIT[precision], "relative norm")
        if precision == "float32":
            yield Check(f"{name}: masks", apart(decode(found.masks), full.numpy()), MASK_LIMIT[precision], "1 - IoU")
            yield Check(f"{name}: features", norm(found.features, features), 5e-5, "relative norm")
            detected = pipeline.detect(1, found, bank, PrototypeMatcher(), (ClassNMS(), SoftMerge(), TopK()))
            rows, labels, _, masks = plain.match_and_merge(logits, ious, tokens, bank.prototypes, target.size)
            yield Check(f"{name}: labels", wrong_rows(detected.labels, labels), 0, "detections that differ")
            off = apart(detected.decode(), masks.numpy()) if len(rows) else float("inf")
            yield Check(f"{name}: {len(rows)} detections", off, MASK_LIMIT[precision], "1 - IoU")


def small_run(bench: Bench, device: str, store: str, *more: str) -> tuple[list[dict[str, Any]], bytes]:
    """Run the embedded default in this process. Returns its detections and their file."""
    output = bench.folder / f"run {len(list(bench.folder.glob('run *')))}"
    with redirect_stdout(io.StringIO()):
        run(compose_config([*arguments(bench, device, store), *more]), output)
    content = (output / "detections.json").read_bytes()
    return json.loads(content), content


def arguments(bench: Bench, device: str, store: str) -> list[str]:
    """Overrides for a few synthetic images. One thread, because ranks that share cores also have one."""
    return [
        f"runtime.device={device}", f"store.dir={bench.folder / store}", "runtime.threads=1", "vis.limit=0",
        "vis.report=false", "dataset.references=12", "dataset.targets=4", "dataset.classes=[cookie,leaf]", "shots=1",
    ]  # fmt: skip


def whole_run(bench: Bench) -> Iterator[Check]:
    """Compare runs of the embedded default: device and CPU, repeated, from a store, and two ranks on one device."""
    device, threads = str(bench.device), torch.get_num_threads()
    try:
        expected, _ = small_run(bench, "cpu", "store-cpu")
        found, content = small_run(bench, device, "store-device")
        missed, worst = unmatched(found, expected)
        yield Check("a run: detections", missed, 0, "without a twin of its label and IoU .95 on the CPU")
        yield Check("a run: scores", worst, 1e-4, "absolute, to the twin's")
        yield Check("a run: same again", float(small_run(bench, device, "store-again")[1] != content), 0, "files")
        differ = entries(bench.folder / "store-device") != entries(bench.folder / "store-again")
        yield Check("a run: its store again", float(differ), 0, "stores")
        there = small_run(bench, "cpu", "store-device", "stage=ablate")[1]
        yield Check("the device's store read on the CPU", float(there != content), 0, "files")
        back, _ = small_run(bench, device, "store-cpu", "stage=ablate")
        yield Check("the CPU's store read on the device", float(back != expected), 0, "files")
        yield Check("two ranks on one device", float(two_ranks(bench, device) != content), 0, "files")
    finally:
        torch.set_num_threads(threads)


def unmatched(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> tuple[float, float]:
    """Number of detections without a match in the other list, and the largest score difference of the matches.

    A match has the same image and label, and a mask IoU of at least .95.
    """
    rest, worst = list(expected), 0.0
    missed = 0
    for one in found:
        twins = [b for b in rest if (b["image_id"], b["category_id"]) == (one["image_id"], one["category_id"])]
        masks = [{**b["segmentation"], "counts": b["segmentation"]["counts"].encode()} for b in (one, *twins)]
        overlap = coco_mask.iou(masks[1:], masks[:1], [0]).ravel() if twins else np.zeros(1)
        if overlap.max() < 0.95:
            missed += 1
            continue
        twin = twins[int(overlap.argmax())]
        worst = max(worst, abs(twin["score"] - one["score"]))
        rest.remove(twin)
    return missed + len(rest), worst


def entries(store: Path) -> dict[str, dict[str, bytes]]:
    """The bytes of all arrays of a store, by key."""
    held = Store(str(store))
    found = {key: held.load(key) or {} for key in sorted(held.shards.places)}
    return {key: {name: array.tobytes() for name, array in entry.items()} for key, entry in found.items()}


def two_ranks(bench: Bench, device: str) -> bytes:
    """The detections of the same run by two processes on one device."""
    output = bench.folder / "ranks"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "main.py"),
        *arguments(bench, device, "store-ranks"), f"hydra.run.dir={output}",
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                          text=True, start_new_session=True) as ranks:  # fmt: skip
        try:
            _, said = ranks.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(ranks.pid, signal.SIGKILL)  # also the ranks, which would keep the device's memory
            raise
    if ranks.returncode:
        raise RuntimeError(f"two ranks on {device}: exit code {ranks.returncode}: {said[-600:]}")
    return (output / "detections.json").read_bytes()


def out_of_memory(bench: Bench) -> Iterator[Check]:
    """Check the error message when the GPU runs out of memory."""
    encoder = DINOv2("vits14", weights="random")
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4, bench.device)
    said = ""
    try:
        with advising({"proposer": {"points_per_batch": 64, "precision": "float32"}}):
            encoder.load(bench.device)
            encoder.encode(bench.target.square.to(bench.device).expand(256, -1, -1, -1))  # more than any cached block
    except RefexpError as error:
        said = str(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
    helps = all(key in said for key in ("out of memory", "proposer.points_per_batch", "precision=bfloat16"))
    yield Check("out of memory", float(not helps), 0, "messages without help")


GROUPS: dict[str, Callable[[Bench], Iterator[Check]]] = {
    "sam2-small": partial(sam2_networks, size="small"),
    "dinov2-small": partial(dinov2, size="small"),
    "masks": mask_operations,
    "default-encoder": default_encoder,
    "matching": matching,
    "whole-image": whole_image,
    "whole-run": whole_run,
    "out-of-memory": out_of_memory,
    "sam2-large": partial(sam2_networks, size="large"),
    "dinov2-large": partial(dinov2, size="large"),
}
"""All groups of checks, most important first. --quick skips those of the large networks."""
