"""A GENERATED data set of COCO's size with its store, for benchmarks of ablations: no images, no networks.

Each scene has some 880 proposals with 1,024 channels: objects, their parts and clutter, several proposals of each, with
features around the directions of 20 classes, so that labels mostly agree with the truth. A few hundred scenes are
generated and repeated: several images of the data set have the same (absent) file, so they share a store entry.

python benchmarks/generated.py FOLDER --scenes 240 --images 5000    # 1.1 GB, 4 minutes on one core
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from refexp.config.components import build_experiment
from refexp.config.composing import compose_config
from refexp.data.coco import annotation_of
from refexp.experiment.run import without_images
from refexp.machine.progress import track
from refexp.machine.provenance import Clock
from refexp.masks import LOW_RES, boxes_xywh, encode
from refexp.method.extraction import Extractor, pack
from refexp.postprocess.shape import low_res_box
from refexp.store.entries import digest
from refexp.store.travel import Manifest
from refexp.types import Proposals

CLASSES, CHANNELS, PROPOSALS, SHOTS = 20, 1024, 885, 60
SIZES = ((480, 640), (427, 640), (640, 480), (426, 640), (333, 500))
TURN = 1024
"""Number of directions in which an outline is computed."""
HARMONICS = 12
"""Number of waves in the outline of an object: its mask has some 300 runs, as those of SAM2 have."""


def overrides(folder: Path) -> list[str]:
    """The settings of a run on the data set in `folder`."""
    return [
        "dataset=custom", f"dataset.images={folder}/absent", f"dataset.references={folder}/references.json",
        f"dataset.targets={folder}/targets.json", f"store.dir={folder}/store", "stage=ablate",
    ]  # fmt: skip


def directions() -> tuple[torch.Tensor, torch.Tensor]:
    """What all features have in common, f32 [C], and the direction of each class, f32 [K, C]."""
    generator = torch.Generator().manual_seed(7)
    common = F.normalize(torch.randn(CHANNELS, generator=generator), dim=0)
    return common, F.normalize(torch.randn(CLASSES, CHANNELS, generator=generator), dim=1)


class Scene:
    """The proposals and the true objects of an image."""

    def __init__(self, number: int) -> None:
        self.rng = np.random.default_rng(number)
        self.size = SIZES[number % len(SIZES)]
        here = self.rng.choice(CLASSES, size=self.rng.integers(2, 6), replace=False)
        self.shapes: list[np.ndarray] = []  # center, half axes, angle, seed of the outline
        self.labels: list[int] = []
        self.true: list[int] = []
        true = min(40, int(self.rng.geometric(1 / 8.2)) - 1)
        for place in range(true + int(self.rng.integers(10, 22))):
            half = float(np.exp(self.rng.uniform(np.log(0.012), np.log(0.3)))) * max(self.size)
            label = int(self.rng.choice(here)) if place < true else -1
            middle = self.rng.uniform(0.02, 0.98, 2) * self.size
            self.true += [len(self.shapes)] if label >= 0 else []
            self._add(middle, half, label)
            for _ in range(self.rng.integers(2, 7) if half > 15 else 0):
                self._add(middle + self.rng.normal(size=2) * half / 2, half * self.rng.uniform(0.2, 0.5), label)

    def _add(self, middle: np.ndarray, half: float, label: int) -> None:
        flat = self.rng.uniform(0.5, 1)
        self.shapes.append(
            np.array([*middle, half, half * flat, self.rng.uniform(0, 3.14), self.rng.integers(1 << 30)])
        )
        self.labels.append(label)

    def mask(self, shape: np.ndarray) -> np.ndarray:
        """Draw an ellipse with a wavy outline, bool [H, W]."""
        y0, x0, a, b, angle, seed = shape
        reach = int(1.5 * a) + 2
        top, left = max(0, int(y0) - reach), max(0, int(x0) - reach)
        y, x = np.ogrid[top : min(self.size[0], int(y0) + reach), left : min(self.size[1], int(x0) + reach)]
        y, x = (y - y0).astype(np.float32), (x - x0).astype(np.float32)
        u, v = (x * np.cos(angle) + y * np.sin(angle)) / a, (y * np.cos(angle) - x * np.sin(angle)) / b
        turn = np.linspace(0, 2 * np.pi, TURN)
        waves = np.arange(1, HARMONICS + 1)[:, None]
        start = np.random.default_rng(int(seed)).uniform(0, 2 * np.pi, (HARMONICS, 1))
        outline = 1 + (0.25 / waves * np.sin(waves * turn + start)).sum(axis=0)
        around = ((np.arctan2(v, u) / (2 * np.pi) + 0.5) * (TURN - 1)).astype(np.int16)
        full = np.zeros(self.size, dtype=bool)
        full[top : top + around.shape[0], left : left + around.shape[1]] = u * u + v * v < outline[around]
        return full

    def truth(self) -> list[dict[str, Any]]:
        """The objects as annotations without ids."""
        found = [annotation_of(0, 0, self.labels[row] + 1, self.mask(self.shapes[row])) for row in self.true]
        for one in found:
            one["iscrowd"] = int(self.rng.random() < 0.015)
        return [one for one in found if one["area"] > 4]

    def proposals(self) -> Proposals:
        """About 885 proposals: each of some object or part, moved and scaled a little."""
        common, classes = directions()
        shapes, labels = np.stack(self.shapes), np.array(self.labels)
        weight = (shapes[:, 2] * shapes[:, 3]) ** 0.4 + 0.5
        rows = self.rng.choice(len(shapes), size=PROPOSALS, p=weight / weight.sum())
        moved = shapes[rows].copy()
        moved[:, :2] += self.rng.normal(size=(PROPOSALS, 2)) * moved[:, 2:4] * 0.14
        moved[:, 2:4] *= np.exp(self.rng.normal(size=(PROPOSALS, 2)) * 0.2)
        masks = [encode(self.mask(shape)[None])[0] for shape in moved]
        keep = [place for place, box in enumerate(boxes_xywh(masks)) if box[2] * box[3] > 0]
        noise = torch.Generator().manual_seed(int(self.rng.integers(1 << 30)))
        own = F.normalize(torch.randn(len(shapes), CHANNELS, generator=noise), dim=1)
        mixed = F.normalize(torch.randn(len(shapes), CLASSES, generator=noise), dim=1) @ classes
        toward = torch.where(torch.from_numpy(labels >= 0)[:, None], classes[np.maximum(labels, 0)], 0.5 * mixed)
        base = (0.6 * common + 0.55 * toward + 0.45 * own)[rows]
        features = F.normalize(base + 0.25 * F.normalize(torch.randn(base.shape, generator=noise), dim=1), dim=1)
        masks = [masks[place] for place in keep]
        boxes = torch.stack([low_res_box(box, self.size) for box in boxes_xywh(masks)])
        quality = torch.from_numpy(self.rng.beta(6, 1.5, size=len(keep)).astype(np.float32))
        return Proposals(quality, boxes.clamp(max=LOW_RES - 1), features[keep].contiguous(), masks, self.size)


def write_annotations(folder: Path, truth: list[list[dict[str, Any]]], images: int) -> None:
    """Write targets.json, references.json and the manifest of the absent images."""
    categories = [{"id": label + 1, "name": f"class{label}"} for label in range(CLASSES)]

    def record(id_: int, name: str, size: tuple[int, int]) -> dict[str, Any]:
        return {"id": id_, "file_name": name, "height": size[0], "width": size[1]}

    targets = [record(i + 1, f"scene{i % len(truth)}.jpg", SIZES[i % len(truth) % len(SIZES)]) for i in range(images)]
    found = [one | {"image_id": i + 1} for i in range(images) for one in truth[i % len(truth)]]
    found = [one | {"id": id_} for id_, one in enumerate(found, start=1)]
    square = np.zeros((120, 160), dtype=bool)
    square[40:90, 40:110] = True
    of_class = range(CLASSES * SHOTS)
    references = [record(i + 1, f"reference{i}.jpg", square.shape) for i in of_class]
    drawn = [annotation_of(i + 1, i + 1, i % CLASSES + 1, square) for i in of_class]
    for name, pictures, instances in (("targets", targets, found), ("references", references, drawn)):
        content = {"images": pictures, "annotations": instances, "categories": categories}
        (folder / f"{name}.json").write_text(json.dumps(content))
    hashed = [image | {"fingerprint": digest(["GENERATED", image["file_name"]])} for image in targets + references]
    unique = list({image["file_name"]: image for image in hashed}.values())
    Manifest({"targets": unique}, {"encoder": "GENERATED", "proposer": "GENERATED"}).write(folder / "store")


def fill_store(folder: Path, scenes: list[Scene]) -> None:
    """Write the entries of the scenes and of all references."""
    config = compose_config(overrides(folder))
    with without_images(config):
        experiment = build_experiment(config)
        data = experiment.dataset.load()
        parts = experiment.encoder, experiment.proposer, experiment.store, experiment.config, experiment.device
        extractor = Extractor(*parts, Clock())
        made_by = {"kind": "proposals", "encoder": "GENERATED", "proposer": "GENERATED"}
        records = list(data.targets.images.values())[: len(scenes)]
        for record, scene in track(zip(records, scenes, strict=True), len(scenes), "scenes"):
            entry = pack(scene.proposals(), experiment.store.dtype)
            experiment.store.save(extractor.target_key(data.targets, record, ()), entry, made_by)
        common, classes = directions()
        noise = torch.Generator().manual_seed(1)
        for annotation in data.references.annotations:
            reference = data.references.reference(annotation)
            own = F.normalize(torch.randn(CHANNELS, generator=noise), dim=0)
            feature = F.normalize(0.6 * common + 0.55 * classes[reference.label] + 0.75 * own, dim=0)
            experiment.store.save(
                extractor.reference_key(data.references, reference), {"prototype": feature.numpy()}, made_by
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scenes", type=int, default=240)
    parser.add_argument("--images", type=int, default=5000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.folder.absolute()
    (folder / "store").mkdir(parents=True, exist_ok=True)
    scenes = [Scene(number) for number in range(options.scenes)]
    write_annotations(folder, [scene.truth() for scene in scenes], options.images)
    fill_store(folder, scenes)


if __name__ == "__main__":
    main()
