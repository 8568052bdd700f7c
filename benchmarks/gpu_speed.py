"""Measure seconds per image by stage and end to end, memory, and device utilisation, and compare with plain.py.

Networks have RANDOM weights and real architectures: timings are real, detections are not.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import plain
import torch
from common import PAIRS, PHOTOGRAPHS, make_target, networks, photograph, seconds, some_bank, threshold_for, wait
from PIL import Image

from refexp import masks
from refexp.data.coco import Split, make_split
from refexp.data.custom import access
from refexp.encoders.dinov2 import DINOv2
from refexp.inputs.images import read_rgb, to_square
from refexp.machine.networks import computing
from refexp.machine.provenance import Clock
from refexp.method import pipeline
from refexp.method.extraction import Extractor, pack
from refexp.method.pipeline import extract
from refexp.proposers import sam2
from refexp.proposers.sam2 import SAM2Proposer
from refexp.store.entries import Store, digest
from refexp.types import Target

IMAGES = {"cuda": 8, "cpu": 3}
"""Number of photos to extract into the store. The first is a warm-up and does not count."""


class Stages:
    """Seconds by stage. Synchronises the device at both ends of a stage. Nested stages are not counted twice."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.inner = [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wait(self.device)
        start = time.perf_counter()
        self.inner.append(0.0)
        yield
        wait(self.device)
        spent = time.perf_counter() - start
        self.seconds[name] += spent - self.inner.pop()
        self.inner[-1] += spent

    def watch(self, owner: Any, name: str, stage: str) -> Any:
        """A patch that counts the time in `owner.name` as `stage`."""
        original = getattr(owner, name)

        def timed(*arguments: Any, **settings: Any) -> Any:
            with self.stage(stage):
                return original(*arguments, **settings)

        return mock.patch.object(owner, name, timed)


def by_stage(
    proposer: SAM2Proposer, encoder: DINOv2, path: Path, store: Store, device: torch.device
) -> dict[str, float]:
    """Extract one photo as refexp does, from its file to its store entry. Returns seconds by stage."""
    stages = Stages(device)
    with ExitStack() as stack:
        for owner, name, stage in (
            (proposer, "embed", "SAM2 encoder"),
            (proposer.decoder, "attend", "decoder"),
            (proposer.decoder, "best", "decoder"),
            (proposer.decoder, "upscale", "upscaling"),
            (sam2, "upscale_to_rle", "masks to full size"),
            (masks, "encode_positive", "run lengths"),
            (encoder, "encode", "DINOv2"),
            (pipeline, "pool_masks", "pooling"),
            (pipeline, "low_res_boxes", "pooling"),
        ):
            stack.enter_context(stages.watch(owner, name, stage))
        with stages.stage("read"):
            rgb = read_rgb(path, 427, 640)
        with stages.stage("resize"):
            square = to_square(rgb, proposer.image_size)
        if device.type == "cuda":
            square = square.pin_memory()
        with stages.stage("to the device"):
            square = square.to(device, non_blocking=True)
        with stages.stage("results to the CPU, and the rest"):
            (proposals,) = extract([Target(1, rgb, square)], encoder, proposer, device)
        with stages.stage("store"):
            store.save(digest(str(path)), pack(proposals, store.dtype), {})
    return dict(stages.seconds)


def photographs(folder: Path, count: int) -> Split:
    """Different images of 640 x 427, made from scikit-image's photos, as a split without annotations."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(count):
        picture = Image.open(photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])).convert("RGB")
        picture = picture.rotate(180 * (number // len(PHOTOGRAPHS))).resize((640, 427))
        name = f"{number}.jpg"
        picture.save(folder / name, quality=90)
        records.append({"id": number + 1, "file_name": name, "width": 640, "height": 427})
    return make_split({"images": records, "annotations": [], "categories": []}, "photographs", (), *access(folder))


def into_the_store(
    proposer: SAM2Proposer, encoder: DINOv2, split: Split, store: Store, device: torch.device
) -> tuple[float, float]:
    """Seconds per image for the extraction from files into an empty store, and the mean number of proposals."""
    settings = {"encoder": {"_target_": "DINOv2"}, "proposer": {"_target_": "SAM2Proposer"}}
    extractor = Extractor(encoder, proposer, store, settings, device, Clock())
    extractor.loaded = True
    times, counts = [], []
    for _, proposals in extractor.proposals(split, list(split.images.values())):
        times.append(time.perf_counter())
        counts.append(len(proposals))
    return (times[-1] - times[0]) / (len(times) - 1), float(np.mean(counts[1:]))


def busy_share(work: Callable[[], Any], device: torch.device) -> float | None:
    """Fraction of the wall time of `work` with a running kernel. None on a CPU, or if no kernel was recorded."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        wall, _ = seconds(work, device=device)
    kernels = [
        event.time_range
        for event in profiled.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.name.startswith(("Memcpy", "Memset"))
    ]
    if not kernels:  # the profiler has no permission
        return None
    busy, end = 0.0, 0.0
    for span in sorted(kernels, key=lambda span: span.start):
        busy += max(0.0, span.end - max(span.start, end))
        end = max(end, span.end)
    return busy / 1e6 / wall


def peak_mib(device: torch.device) -> float:
    """Peak memory in MiB since the last reset: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@torch.inference_mode()
def plain_seconds(proposer: SAM2Proposer, encoder: DINOv2, target: Target, batch: int, device: torch.device) -> float:
    """Seconds of plain.py for the same photo, device and precision, including matching and merging."""
    points, square = proposer.points.to(device), target.square.to(device)
    prototypes = some_bank(encoder.model.num_features).prototypes.to(device)

    def work() -> None:
        with computing(device, proposer.precision):
            logits, ious = plain.propose(proposer.model, square, points, batch, proposer.iou_threshold)
            tokens = plain.dinov2_tokens(encoder.model, square[None])[0].float()
        with computing(device):
            plain.match_and_merge(logits.float(), ious.float(), tokens, prototypes, target.size)

    work() if device.type == "cuda" else None
    return seconds(work, device=device)[0]


def measure(
    device: torch.device, pair: str, precision: str, survivors: int, side: int, folder: Path, with_plain: bool
) -> dict[str, Any]:
    """Time one row: a pair of networks in a precision. `survivors` of side x side points pass the threshold."""
    gpu = device.type == "cuda"
    proposer, encoder = networks(*PAIRS[pair], precision, device, side)
    target = make_target()
    with computing(device, precision):
        proposer.iou_threshold = threshold_for(proposer, target, survivors)
    store = Store(str(folder / "store"))
    split = photographs(folder / "images", IMAGES[device.type])
    row: dict[str, Any] = {
        "networks": "+".join(PAIRS[pair]), "precision": precision, "points": side**2, "survivors": survivors,
    }  # fmt: skip
    with computing(device):
        runs = [by_stage(proposer, encoder, photograph(), store, device) for _ in range(4 if gpu else 2)]
    counted = runs[1:]  # the first warms up
    row["stages"] = {name: float(np.median([run[name] for run in counted])) for name in counted[0]}
    row["image"] = float(np.median([sum(run.values()) for run in counted]))
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    seconds_each, proposals = into_the_store(proposer, encoder, split, store, device)
    row |= {"into the store": seconds_each, "proposals": proposals, "peak MiB": peak_mib(device)}
    row["busy"] = busy_share(lambda: extract([target], encoder, proposer, device), device)
    if with_plain:
        row |= beside(row["image"], proposer, encoder, target, device)
    return row


def beside(
    image: float, proposer: SAM2Proposer, encoder: DINOv2, target: Target, device: torch.device
) -> dict[str, float]:
    """The result of plain.py for a row, with the largest batch that fits the device; {} if none fits."""
    for batch in (256, 32) if device.type == "cuda" else (32,):
        try:
            plain_image = plain_seconds(proposer, encoder, target, batch, device)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        else:
            return {"plain": plain_image, "plain batch": batch, "ratio": plain_image / image}
    return {}
