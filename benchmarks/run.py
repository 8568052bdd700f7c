"""Time refexp and the plain implementation of docs/method.md (plain.py) in one process with two threads.

    python benchmarks/run.py            # everything; writes benchmarks/RESULTS.md (half an hour on two cores)
    python benchmarks/run.py image      # only the named sections, printed
    python benchmarks/run.py image --quick      # the small networks at 880 survivors, in less than five minutes
    python benchmarks/run.py photographs --photographs DIR REFERENCES.json TARGETS.json     # your own images

All networks have RANDOM weights and real architectures: timings are real, detections are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import plain
import torch
import torch.nn.functional as F
from common import CLASS_COUNT, PAIRS, make_target, networks, random_masks, seconds, some_bank, threshold_for

from refexp.data.coco import Split
from refexp.data.sampling import farthest
from refexp.encoders.dinov2 import DINOv2
from refexp.evaluation.coco_protocol import CocoEvaluation
from refexp.machine.networks import computing, has_half
from refexp.machine.runtime import keep_heap
from refexp.masks import boxes_xywh, decode, low_res_boxes, upscale_to_rle
from refexp.matchers.prototype import PrototypeMatcher
from refexp.method.extraction import pack, unpack
from refexp.method.memory import build_bank
from refexp.method.pipeline import detect, extract
from refexp.method.pooling import pool_masks
from refexp.postprocess.steps import ClassNMS, SoftMerge, TopK
from refexp.proposers.sam2 import SAM2Proposer
from refexp.store.entries import Store, digest
from refexp.types import Detections, MemoryBank, Proposals, Target

CPU = torch.device("cpu")
HERE = Path(__file__).parent
STEPS = (ClassNMS(), SoftMerge(), TopK())
NO_HALF = "bfloat16 was left out: this CPU has no instructions for it, so that it takes some 30 times longer."


@torch.inference_mode()
def plain_networks(
    proposer: SAM2Proposer, encoder: DINOv2, target: Target, batch: int, threshold: float = 0.0
) -> tuple[dict, tuple]:
    """Time the plain SAM2 and DINOv2. Returns the seconds, and the outputs of all points above the threshold."""
    times = {}
    times["SAM2"], (logits, ious) = seconds(
        lambda: plain.propose(proposer.model, target.square, proposer.points, batch, threshold)
    )
    times["DINOv2"], tokens = seconds(lambda: plain.dinov2_tokens(encoder.model, target.square[None])[0])
    return times, (logits, ious, tokens)


def our_image(proposer: SAM2Proposer, encoder: DINOv2, target: Target, bank: MemoryBank) -> dict:
    """Time refexp on a whole image. Returns seconds by stage, proposals and detections."""
    times = {}
    times["SAM2 and RLE masks"], proposed = seconds(lambda: proposer.propose(target))
    times["DINOv2"], tokens = seconds(lambda: encoder.encode(target.square[None])[0])

    def pool():
        return Proposals(
            proposed.quality, low_res_boxes(proposed.masks_lr), pool_masks(proposed.masks_lr, tokens), proposed.masks,
            target.size,
        )  # fmt: skip

    times["pooling"], proposals = seconds(pool)
    times["matching, merging"], found = seconds(lambda: detect(1, proposals, bank, PrototypeMatcher(), STEPS))
    return {"times": times, "found": found, "proposals": proposals}


@torch.inference_mode()
def proposals_agreement(ours: Proposals, logits: torch.Tensor, ious: torch.Tensor, tokens: torch.Tensor) -> str:
    """Compare all proposals of both sides, before matching removes most of them."""
    if len(ours) != len(logits):
        return f"{len(ours)} against {len(logits)} proposals"
    masks = (F.interpolate(m[None, None], size=ours.size, mode="bilinear", antialias=True)[0, 0] > 0 for m in logits)
    different = sum(int((decode([rle])[0] != mask.numpy()).sum()) for rle, mask in zip(ours.masks, masks, strict=True))
    features = float((ours.features - plain.mask_features(logits, tokens)).abs().max())
    quality = float((ours.quality - ious).abs().max())
    pixels = len(ours) * ours.size[0] * ours.size[1]
    return (
        f"{len(ours)} proposals, {different} of {pixels / 1e6:.0f} million mask pixels differ, predicted IoUs within "
        f"{quality:.0e}, features within {features:.0e}"
    )


def agreement(ours: Detections, rows_labels_scores_masks: tuple) -> str:
    """Compare the detections of both sides."""
    _, labels, scores, masks = rows_labels_scores_masks
    if len(ours) != len(labels):
        return f"{len(ours)} against {len(labels)} detections"
    same = "equal" if torch.equal(ours.labels, labels) else "DIFFERENT"
    pixels = int((decode(ours.masks) != masks.numpy()).sum()) if len(labels) else 0
    worst = float((ours.scores - scores).abs().max()) if len(labels) else 0.0
    return f"{len(labels)} detections, labels and order {same}, {pixels} mask pixels differ, scores within {worst:.0e}"


def image_section(quick: bool) -> list[str]:
    """Whole image: plain, float32 and bfloat16 for more and more survivors. Both sides keep the C heap."""
    lines, target = [], make_target()
    detect(1, *random_proposals(10, 1)[0], PrototypeMatcher(), STEPS)  # compiles
    for sam2, arch in list(PAIRS.values())[: 1 if quick else None]:
        proposer, encoder = networks(sam2, arch, "float32", CPU)
        half = networks(sam2, arch, "bfloat16", CPU) if has_half(CPU) else None
        networks_times, (logits, ious, tokens) = plain_networks(proposer, encoder, target, 32)
        rows, notes = [], []
        for survivors in (880,) if quick else (300, 880, 1024):
            proposer.iou_threshold = threshold_for(proposer, target, survivors)
            ours = {"refexp float32": (proposer, encoder)}
            if half:
                half[0].iou_threshold = proposer.iou_threshold
                ours["refexp bfloat16"] = half
            # refexp drops empty masks. In the plain method their features are NaN, and so is all that meets them.
            kept = (ious > proposer.iou_threshold) & (logits > 0).flatten(1).any(dim=1)
            some = logits[kept], ious[kept], tokens
            bank = near_proposals(plain.mask_features(some[0], tokens))
            rest, base = seconds(lambda s=some, b=bank: plain.match_and_merge(*s, b.prototypes, target.size))
            sides = {"plain": networks_times | {"matching, masks, merging": rest}}
            runs = [
                {side: our_image(*pair, target, bank) for side, pair in ours.items()}
                for _ in range(3 if survivors == 880 else 1)  # the paper's threshold keeps most
            ]
            sides |= {side: median([run[side] for run in runs]) for side in ours}
            found = runs[0]["refexp float32"]
            total = {name: sum(times.values()) for name, times in sides.items()}
            for side, times in sides.items():
                ratio = total["plain"] / total[side]
                shown = "1" if side == "plain" else f"**{ratio:.2f}**"
                rows.append(f"| {survivors} | {side} | {shown} | {total[side]:.1f} | {stages(times)} |")
                if side != "plain":
                    print(f"ratio {sam2}+{arch} {side.split()[1]} {survivors} {ratio:.2f}", flush=True)
            notes.append(
                f"{survivors} survivors, float32 against plain: {proposals_agreement(found['proposals'], *some)}; "
                f"{agreement(found['found'], base)}."
            )
        lines += [
            f"**{sam2} + {arch}**, 640 x 427 photograph, 1,024 points, of which so many survive the threshold. "
            "plain: 32 points a batch and the C heap kept, its best setting.",
            "" if quick else as_published(sam2, arch, sum(networks_times.values())),
            "",
            "| survivors | side | times faster | s | by stage |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *notes,
            half_agreement(proposer, half[0], target) if half else NO_HALF,
            "",
        ]
    return lines


def near_proposals(features: torch.Tensor) -> MemoryBank:
    """Prototypes near the most dissimilar proposals, each at a larger distance than the one before.

    So there are detections although the weights are random, and no two scores are equal.
    """
    rows = features[farthest(features, CLASS_COUNT, 0)]
    noise = F.normalize(torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)), dim=1)
    return build_bank((rows + noise * torch.linspace(0.1, 0.6, len(rows))[:, None]).split(1))


def median(runs: Sequence[dict]) -> dict[str, float]:
    """The stages of the run of median length."""
    return sorted((run["times"] for run in runs), key=lambda times: sum(times.values()))[len(runs) // 2]


def as_published(sam2: str, arch: str, best: float) -> str:
    """Time the plain networks with 256 points per batch, in a process that returns freed memory to the system."""
    command = [sys.executable, __file__, "--published", sam2, arch]
    taken = float(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return (
        f"As published (256 points a batch, C heap given back) the plain networks take {taken:.1f} s, not {best:.1f} s."
    )


def published(sam2: str, arch: str) -> None:
    """Print the seconds that `as_published` reads."""
    proposer, encoder = networks(sam2, arch, "float32", CPU)
    times, _ = plain_networks(proposer, encoder, make_target(), 256)
    print(sum(times.values()))


def stages(times: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in times.items())


def half_agreement(proposer: SAM2Proposer, half: SAM2Proposer, target: Target) -> str:
    """The effect of bfloat16 on the predicted IoUs and masks of the same points."""
    with torch.inference_mode():
        some = slice(None, None, 16)
        proposer_threshold, proposer.iou_threshold, half.iou_threshold = proposer.iou_threshold, 0.0, 0.0
        exact_iou, exact = proposer.decode(proposer.prompts[some], proposer.embed(target.square, proposer.no_mem_embed))
        with computing(CPU, "bfloat16"):
            rough_iou, rough = half.decode(half.prompts[some], half.embed(target.square, half.no_mem_embed))
        proposer.iou_threshold = proposer_threshold
    both = ((exact > 0) & (rough > 0)).flatten(1).sum(1) / ((exact > 0) | (rough > 0)).flatten(1).sum(1).clamp(min=1)
    off = float((exact_iou - rough_iou).abs().max())
    return (
        f"bfloat16 against float32: predicted IoU moves by at most {off:.4f}, masks overlap by IoU {both.mean():.3f}."
    )


def random_proposals(count: int, classes: int) -> tuple[tuple[Proposals, MemoryBank], tuple]:
    """Random proposals and a bank, and the logits, predicted IoUs and tokens that they are made of."""
    logits, ious = random_masks(count)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(37 * 37, 384, generator=generator) + 0.3
    bank = MemoryBank(F.normalize(torch.randn(classes, 384, generator=generator) + 0.5, dim=1), [])
    masks = upscale_to_rle(logits, (427, 640))
    features = pool_masks(logits > 0, tokens)
    return (Proposals(ious, low_res_boxes(logits > 0), features, masks, (427, 640)), bank), (logits, ious, tokens)


def merging_section() -> list[str]:
    """Only matching, NMS and merging, for increasing numbers of proposals."""
    lines = ["| proposals | classes | plain s | refexp s | ratio | detections/s |", "|---|---|---|---|---|---|"]
    for count, classes in ((100, 20), (300, 20), (300, 1), (1000, 20), (3000, 20)):
        made, plainly = random_proposals(count, classes)
        repeat = 3 if count <= 300 else 1
        ours, found = seconds(lambda m=made: detect(1, *m, PrototypeMatcher(), STEPS), repeat)
        base = None
        if count <= 1000:
            with torch.inference_mode():
                base, _ = seconds(
                    lambda p=plainly, b=made[1].prototypes: plain.match_and_merge(*p, b, (427, 640)), repeat
                )
        shown = (f"{base:.2f}", f"**{base / ours:.0f}**") if base else ("(memory)", "-")
        lines.append(f"| {count} | {classes} | {shown[0]} | {ours:.3f} | {shown[1]} | {len(found) / ours:.0f} |")
    return [*lines, "", "plain starts from logits, refexp from the store's entry (features, boxes, run-length codes)."]


def store_section() -> list[str]:
    """Time a store hit and a store miss."""
    target = make_target()
    proposer, encoder = networks("sam2_hiera_t", "vits14", "float32", CPU)
    proposer.iou_threshold = threshold_for(proposer, target, 300)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        miss, entry = seconds(lambda: pack(extract([target], encoder, proposer, CPU)[0], "float32"))
        store.save(digest(1), entry, {})
        hit, _ = seconds(lambda: unpack(store.load(digest(1))), 5)
        size = store.size(digest(1)) or 0
    return [f"miss {miss:.1f} s, hit {1000 * hit:.1f} ms (**{miss / hit:.0f} times**), {size / 1024:.0f} KiB an image."]


def memory_section() -> list[str]:
    """Peak memory for one image, with each side in its own process."""
    lines = [
        "| 880 proposals | networks loaded, MiB | refexp | plain, 32 points a batch | refexp's share | "
        "plain, 256 points a batch | refexp's share |",
        "|---|---|---|---|---|---|---|",
    ]
    for sam2, arch in PAIRS.values():
        sides = ["loaded", "ours", "plain-32", *(["plain-256"] if sam2 == "sam2_hiera_t" else [])]
        peaks = {side: peak_of(side, sam2, arch) for side in sides}
        shown = [f"{peaks['loaded']}", f"{peaks['ours']}"]
        for side in ("plain-32", "plain-256"):
            shown += [f"{peaks[side]}", f"**{peaks['ours'] / peaks[side]:.2f}**"] if side in peaks else ["-", "-"]
        lines.append(f"| {sam2} + {arch} | {' | '.join(shown)} |")
    return lines


def peak_of(side: str, sam2: str, arch: str) -> int:
    command = [sys.executable, __file__, "--peak", side, sam2, arch]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def peak(side: str, sam2: str, arch: str) -> None:
    """Print the peak resident memory for one image in MiB."""
    target = make_target()
    proposer, encoder = networks(sam2, arch, "float32", CPU)
    if side != "loaded":
        proposer.iou_threshold = threshold_for(proposer, target, 880)
        bank = some_bank(encoder.model.num_features)
        if side == "ours":
            keep_heap()  # as a run does
            our_image(proposer, encoder, target, bank)
        else:
            _, found = plain_networks(proposer, encoder, target, int(side.split("-")[1]), proposer.iou_threshold)
            with torch.inference_mode():
                plain.match_and_merge(*found, bank.prototypes, target.size)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def evaluation_section() -> list[str]:
    """Time pycocotools and refexp's own engine for increasing numbers of images."""
    lines = ["| images | kind | pycocotools s | refexp s | ratio |", "|---|---|---|---|---|"]
    for images in (100, 1000):
        results = random_results(images)
        for kind in ("bbox", "segm"):
            own, reference = (CocoEvaluation([kind], engine) for engine in ("refexp", "pycocotools"))
            own.evaluate(results[0].first(1), [], results[2])  # compiles
            fast, found = seconds(partial(own.evaluate, *results))
            slow, expected = seconds(partial(reference.evaluate, *results))
            assert found.metrics == expected.metrics
            lines.append(f"| {images} | {kind} | {slow:.1f} | {fast:.1f} | **{slow / fast:.1f}** |")
    return lines


def random_results(images: int) -> tuple[Split, list[Detections], list[str]]:
    """Seven instances and 100 detections per image, 20 classes, masks of 427 x 640."""
    generator = torch.Generator().manual_seed(0)
    pool = upscale_to_rle(random_masks(300)[0], (427, 640))
    boxes = boxes_xywh(pool)
    records = {i: {"id": i, "height": 427, "width": 640, "file_name": ""} for i in range(1, images + 1)}

    def draw(high: int, count: int) -> torch.Tensor:
        return torch.randint(high, (count,), generator=generator)

    annotations, detections = [], []
    for image_id in records:
        for shape, label in zip(draw(300, 7).tolist(), draw(CLASS_COUNT, 7).tolist(), strict=True):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, "category_id": label, "iscrowd": 0,
                 "bbox": boxes[shape].tolist(), "segmentation": pool[shape]}
            )  # fmt: skip
        shapes, scores = draw(300, 100).tolist(), torch.rand(100, generator=generator).sort(descending=True).values
        detections.append(Detections(image_id, draw(CLASS_COUNT, 100), scores, [pool[i] for i in shapes]))
    labels = {label: label for label in range(CLASS_COUNT)}
    split = Split("benchmark", records, annotations, labels, lambda record: None, lambda record: "")
    return split, detections, [f"class {label}" for label in labels]


def sweep_of_60(arguments: list[str]) -> tuple[float, np.ndarray]:
    """Seconds of the first run and of the other runs of 6 shots x 10 seeds, in one multirun with an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep"
        command = [
            sys.executable, str(HERE.parent / "main.py"), "-m", "shots=1,2,3,5,10,30", "seed=range(0,10)",
            "shots.missing=repeat", "store.references=all", f"store.dir={folder}/store", f"hydra.sweep.dir={sweep}",
            "vis.limit=0", "runtime.threads=2", *arguments,
        ]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        start = (sweep / "0/.hydra/overrides.yaml").stat().st_mtime
        ends = [(sweep / str(job) / "metrics.json").stat().st_mtime for job in range(60)]
    return ends[0] - start, np.diff(ends)


def sweep_table(first: float, rest: np.ndarray) -> list[str]:
    totals = {1: first, 10: first + rest[:9].sum(), 60: first + rest.sum()}
    return [
        f"Run 1 takes {first:.1f} s, each of runs 2 to 60 {np.median(rest):.2f} s (at most {rest.max():.2f} s, "
        f"{100 * rest.max() / first:.2f} % of run 1).",
        "",
        "| runs | seconds | against one run |",
        "|---|---|---|",
        *(f"| {runs} | {total:.1f} | {total / first:.2f} |" for runs, total in totals.items()),
    ]


def ablation_section() -> list[str]:
    """The cost of runs 2 to 60 of an ablation with the embedded default."""
    first, rest = sweep_of_60([])
    return ["The embedded default, synthetic images, 6 shots x 10 seeds in one multirun.", *sweep_table(first, rest)]


def photographs_section(images: str, references: str, targets: str) -> list[str]:
    """The same with SAM2 and DINOv2 on photos, extrapolated to 5,000 photos."""

    first, rest = sweep_of_60(
        ["dataset=custom", f"dataset.images={images}", f"dataset.references={references}", f"dataset.targets={targets}",
         "encoder=dinov2_vits14", "proposer=sam2_hiera_t", "proposer.points_per_side=16", "weights=random"]
    )  # fmt: skip
    count = len(json.loads(Path(targets).read_text())["images"])
    extract, ablate = first / count * 5000 / 3600, float(np.median(rest)) / count * 5000 / 60
    return [
        f"{count} photographs, sam2_hiera_t + dinov2_vits14 with RANDOM weights, a 16 x 16 grid, 6 shots x 10 seeds in "
        "one multirun.",
        *sweep_table(first, rest),
        "",
        f"At that rate 5,000 images take {extract:.0f} h of extraction once (the references' share counted with the "
        f"images), and at most {ablate:.1f} minutes in each of the 60 runs; computing everything anew in each would "
        f"take {60 * extract / 24:.0f} days.",
    ]


# Memory comes first: on Linux a process starts with its parent's peak as its own.
SECTIONS = {
    "memory": ("Peak memory", memory_section),
    "image": ("Whole image", image_section),
    "merging": ("Matching, NMS and merging", merging_section),
    "store": ("Store", store_section),
    "evaluation": ("Evaluation", evaluation_section),
    "ablation": ("An ablation of 60 runs", ablation_section),
    "photographs": ("An ablation of 60 runs on photographs", photographs_section),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--photographs", nargs=3, metavar=("DIR", "REFERENCES", "TARGETS"), help="of that section")
    parser.add_argument("--quick", action="store_true", help="of the image section: one row, in five minutes")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--published", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    torch.set_num_threads(2)
    if options.peak or options.published:
        peak(*options.peak) if options.peak else published(*options.published)
        return
    keep_heap()
    lines = [
        "# Benchmarks", "",
        "Made by `make bench`: refexp against the method written down plainly (`plain.py`), one process, two threads, "
        "RANDOM weights at real architecture. Machines differ and are noisy: read the ratios.", "",
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores.", "",
    ]  # fmt: skip
    for name in options.sections or SECTIONS:
        if name == "photographs" and not options.photographs:
            print("photographs: skipped, --photographs names none", flush=True)
            continue
        title, section = SECTIONS[name]
        made = section(*{"photographs": options.photographs, "image": [options.quick]}.get(name, ()))
        print("\n".join(made), flush=True)
        lines += [f"## {title}", "", *made, ""]
    if not options.sections:
        results = HERE / "RESULTS.md"
        _, heading, gpu = results.read_text().partition("\n## On a GPU\n")  # not made by this script
        results.write_text("\n".join(lines).rstrip() + "\n" + heading + gpu)


if __name__ == "__main__":
    main()
