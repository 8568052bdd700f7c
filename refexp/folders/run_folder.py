"""The run folder: the interface between computing and showing.

`experiment/run.py` writes it. Pages, tables, W&B and CSV only read it, so they can be rebuilt from it at any time. The
files are JSON, YAML, COCO and npz (see outputs/README.md). `metrics.json` holds the typed record (`record.py`).
"""

from __future__ import annotations

import csv
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from refexp.config.building import build
from refexp.config.components import Input, Kept
from refexp.data.coco import Data, has_mask, make_split
from refexp.data.protocols import one_short
from refexp.data.readable import without
from refexp.errors import RefexpError, first_line
from refexp.evaluation.matches import Matches, numbers_by_image
from refexp.files import atomic_path, finite, read_json, write_csv, write_json, write_packed, write_text
from refexp.folders.record import RunRecord
from refexp.folders.status import read_what_is_there
from refexp.inputs.frames import CONTRADICTION
from refexp.inputs.refusals import limit_pixels
from refexp.inputs.walking import RESULT_FOLDERS
from refexp.masks import boxes_xywh, to_json
from refexp.method.memory import ReferenceView
from refexp.types import Detections, ImageId, MemoryBank, Reference

log = logging.getLogger(__name__)

RESULTS = (
    "metrics.json", "detections.json", "detections.json.gz", "detections_published.json", "curves.npz", "matches.npz",
    "per_image.csv", "diagnostics.json", "memory_bank.npz", "report.html",
    "memory_bank.png", "WEIGHTS.txt", "summary.csv", "summary.json", "metrics.csv", "per_class.csv",
    "report/*/*.js*", "report/*/*.jpg", "report/*.js*", "overlays/**/*.jpg", "masks/**/[0-9][0-9][0-9]*_*.png",
)  # fmt: skip
"""Files that only some runs write."""


KEPT = {"json": "detections.json", "gz": "detections.json.gz"}
"""The file with the detections, by the setting `detections`."""


class RunFolder:
    """Writes and reads the files of one run. What it wrote in this process is not read from disk again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data: Data | None = None
        self._detections: Sequence[Detections] | None = None

    def begin(self, config: Mapping[str, Any], references: dict[str, Any], note: str | None) -> None:
        """Write the files that are known before the computation, and delete the results of an earlier run.

        Deletes only in a folder that holds a run, so that no other files are lost. references: the result of
        `references_to_coco`. Raises RefexpError if the data set lies where this run keeps its results.
        """
        for key, value in config.get("dataset", {}).items():
            place = Path(value).resolve() if isinstance(value, str) and Path(value).exists() else Path("/")
            if any(place.is_relative_to(self.path.resolve() / name) for name in RESULT_FOLDERS):
                raise RefexpError(f"{key}: {value} lies where this run keeps its results; set another hydra.run.dir.")
        if (self.path / "config.yaml").is_file() and (self.path / "references.json").is_file():
            if before := read_what_is_there(self.path / "metrics.json"):
                what = ", ".join(f"{name} {before.get(name)}" for name in ("targets", "shots", "seed"))
                log.warning("%s: the results of an earlier run are replaced (%s)", self.path, what)
            for path in (path for pattern in RESULTS for path in self.path.glob(pattern)):
                path.unlink()
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(config))))
        write_json(self.path / "references.json", finite(references))
        if note:
            write_text(self.path / "WEIGHTS.txt", note + "\n")

    def write_detections(
        self, detections: Sequence[Detections], data: Data, kept: Kept = "json", published: bool = False
    ) -> None:
        """Write COCO results: image id, category id of the targets file, box `x y w h`, score, compressed RLE.

        kept: "gz" compresses the file, "none" writes none. published: also write detections_published.json, where w and
        h are one pixel less.
        """
        self._data, self._detections = data, detections
        category = {label: id_ for id_, label in data.targets.labels.items()}
        if kept != "none":
            write_packed(self.path / KEPT[kept], coco_text(detections, category))
        if published:
            write_packed(self.path / "detections_published.json", coco_text(detections, category, one_short))

    def write_curves(self, curves: Mapping[str, np.ndarray]) -> None:
        """Write precision f64 [10 IoUs, 101 recalls, K] by kind ("bbox", "segm"). -1 where no instance counts."""
        if curves:
            save_arrays(self.path / "curves.npz", curves)

    def write_matches(self, matches: Mapping[str, Matches], metrics: Mapping[str, float | None]) -> None:
        """Write matches.npz: which detections match which instances, by kind ("bbox", "segm").

        Also writes per_image.csv: one row per target. Its counts are those at the score of the best F1 (`metrics`).
        """
        if matches:
            arrays = {f"{kind}/{name}": array for kind, of in matches.items() for name, array in vars(of).items()}
            save_arrays(self.path / "matches.npz", arrays)
        targets = self.data.targets
        rows = [
            {
                "image": found.image_id,
                "file": targets.images[found.image_id]["file_name"],
                "instances": sum(not a.get("iscrowd", 0) for a in targets.by_image[found.image_id]),
                "detections": len(found),
            }
            for found in self.detections
        ]
        for kind, of_kind in matches.items():
            for name, values in numbers_by_image(of_kind, len(rows), metrics[f"{kind}/F1_score"]).items():
                for row, value in zip(rows, values, strict=True):
                    row[f"{kind}/{name}"] = value
        write_csv(self.path / "per_image.csv", [tuple(rows[0]), *(tuple(row.values()) for row in rows)])

    def write_diagnostics(self, diagnosis: Mapping[str, Any], note: str | None) -> None:
        """Write diagnostics.json: upper bounds, error types and confusion; see `evaluation.diagnostics`."""
        write_json(self.path / "diagnostics.json", {"note": note} | dict(diagnosis), indent=1)

    def write_memory_bank(self, views: Sequence[Sequence[ReferenceView]], bank: MemoryBank) -> None:
        """Write memory_bank.npz. views: some references of each of the first classes, as the encoder saw them."""
        every = [view for of_class in views for view in of_class]
        arrays = {
            "prototypes": bank.prototypes.numpy(),
            "instances": torch.cat(bank.instances).numpy(),
            "shots": np.array([len(rows) for rows in bank.instances]),
            "drawn": np.array([len(of_class) for of_class in views]),
            "tokens": torch.stack([view.tokens for view in every]).numpy(),
            "weights": torch.stack([view.weights for view in every]).numpy(),
        }
        arrays |= {f"rgb_{i}": view.rgb for i, view in enumerate(every)}
        arrays |= {f"mask_{i}": view.mask for i, view in enumerate(every)}
        save_arrays(self.path / "memory_bank.npz", arrays)

    def write_record(self, record: RunRecord) -> None:
        """Write metrics.json. It is the last file of the computation, so its presence marks a finished run."""
        write_json(self.path / "metrics.json", record.to_json() | {"config": finite(record.config)}, indent=2)

    @cached_property
    def record(self) -> RunRecord:
        """The content of metrics.json. Raises RefexpError, like `RunRecord.read`."""
        return RunRecord.read(self.path)

    def add_stage(self, name: str, seconds: float) -> None:
        """Add to metrics.json how long a part of showing took, in seconds. Only the first time counts as the run's."""
        if name in self.record.stages:
            return  # made again, everything stays the same
        stages = self.record.stages | {name: {"seconds": round(seconds, 4), "items": 0, "per_second": 0.0}}
        path = self.path / "metrics.json"
        write_json(path, read_json(path) | {"stages": stages}, indent=2)  # a newer file keeps its unknown keys
        self.record = replace(self.record, stages=stages)

    @cached_property
    def data(self) -> Data:
        """The data set with the classes of this run. Raises RefexpError if it no longer exists or has changed."""
        if self._data is not None:
            return self._data
        limit_pixels(build(self.record.config.get("input") or {}, "input", Input).max_pixels)
        offered: Data = build(self.record.config["dataset"], "dataset").load()
        if missing := [name for name in self.record.classes if name not in offered.classes]:
            raise RefexpError(f"the data set has changed since this run: it no longer has the class '{missing[0]}'.")
        targets = offered.targets.first(self.record.config.get("input", {}).get("limit"))
        offered = replace(offered, targets=without(targets, {one["id"] for one in self.record.images_skipped}))
        if CONTRADICTION in self.record.repairs:
            for image in offered.targets.images.values():
                offered.targets.settle_size(image)
        return offered.restrict([offered.classes.index(name) for name in self.record.classes])

    @property
    def detections_file(self) -> Path | None:
        """The file with the detections. None if the run has not kept them."""
        return next((path for name in KEPT.values() if (path := self.path / name).exists()), None)

    @cached_property
    def detections(self) -> list[Detections]:
        """One entry per target, in target order. Without the data set, one entry per image with detections."""
        if self._detections is not None:
            return list(self._detections)
        record, path = self.record, self.detections_file or self.path / "detections.json"
        if not path.exists() and record.config.get("detections") == "none":
            raise RefexpError(f"{self.path} has kept no detections (detections=none): refexp export {self.path}")
        labels = {id_: label for label, id_ in enumerate(record.categories or ())} or self.data.targets.labels
        rows: dict[ImageId, list[dict[str, Any]]] = {}
        with whole(path):
            for row in read_json(path) or ():
                rows.setdefault(row["image_id"], []).append(row)
        with suppress(RefexpError):
            rows = {image_id: rows.get(image_id, []) for image_id in self.data.targets.images}
        # Else a page would call every object missed.
        if (count := sum(map(len, rows.values()))) != record.detections:
            raise RefexpError(
                f"{path}: {count} detections in the targets, and the run had "
                f"{record.detections}. The file is missing or incomplete, or the data set's image ids have changed."
            )
        with whole(path):
            return [
                Detections(
                    image_id,
                    torch.tensor([labels[row["category_id"]] for row in found], dtype=torch.int64),
                    torch.tensor([row["score"] for row in found], dtype=torch.float32),
                    [{**row["segmentation"], "counts": row["segmentation"]["counts"].encode()} for row in found],
                    record.classes,
                )
                for image_id, found in rows.items()
            ]

    @cached_property
    def references(self) -> list[list[Reference]]:
        """The references per class, in class order. A reference that was used repeatedly is repeated."""
        path = self.path / "references.json"
        content = read_json(path) or {"images": [], "annotations": [], "categories": []}
        # Only annotations are read here: images come from the data set.
        with whole(path):
            split = make_split(content, str(path), self.record.classes, lambda record: np.empty(0), lambda record: "")
            found = {annotation["id"]: split.reference(annotation) for annotation in split.annotations}
        if ids := self.record.reference_ids:
            if missing := [id_ for of_class in ids.values() for id_ in of_class if id_ not in found]:
                raise RefexpError(f"{path} is missing, or has no reference {missing[0]}, which the run used.")
            return [[found[id_] for id_ in ids[name]] for name in self.record.classes]
        return [[r for r in found.values() if r.label == label] for label in range(len(self.record.classes))]

    @cached_property
    def curves(self) -> dict[str, np.ndarray]:
        """The curves as written; {} if the run has none."""
        return load_arrays(self.path / "curves.npz")

    @cached_property
    def matches(self) -> dict[str, Matches]:
        """The matches by kind, as written; {} if the run has none."""
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for name, array in load_arrays(self.path / "matches.npz").items():
            kind, _, field = name.partition("/")
            arrays.setdefault(kind, {})[field] = array
        return {kind: Matches(**of_kind) for kind, of_kind in arrays.items()}

    @cached_property
    def per_image(self) -> list[dict[str, str]]:
        """The rows of per_image.csv; [] if the run has none."""
        with suppress(FileNotFoundError), (self.path / "per_image.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
        return []

    @cached_property
    def diagnostics(self) -> dict[str, Any] | None:
        """The diagnostics as written; None if the run has none."""
        return read_json(self.path / "diagnostics.json")

    @cached_property
    def memory_bank(self) -> tuple[list[list[ReferenceView]], MemoryBank] | None:
        """The reference views and the memory bank as written; None if the run has none."""
        arrays = load_arrays(self.path / "memory_bank.npz")
        if not arrays:
            return None
        tensors = {name: torch.from_numpy(arrays[name]) for name in ("prototypes", "instances", "tokens", "weights")}
        rows = zip(tensors["tokens"], tensors["weights"], strict=True)
        every = [ReferenceView(arrays[f"rgb_{i}"], arrays[f"mask_{i}"], *row) for i, row in enumerate(rows)]
        ends = arrays["drawn"].cumsum().tolist()
        views = [every[end - count : end] for end, count in zip(ends, arrays["drawn"].tolist(), strict=True)]
        return views, MemoryBank(tensors["prototypes"], list(tensors["instances"].split(arrays["shots"].tolist())))


def coco_text(
    detections: Sequence[Detections],
    category: Mapping[int, int | str],
    shape: Callable[[list[float]], list[float]] = lambda box: box,
) -> str:
    """COCO results, as `json.dumps` writes the records of `Detections.to_coco`, in half the time.

    shape: changes the boxes.
    """
    ids = {label: json.dumps(id_) for label, id_ in category.items()}
    rows = []
    for found in detections:
        image, boxes = json.dumps(found.image_id), boxes_xywh(found.masks).tolist()
        for label, score, box, mask in zip(
            found.labels.tolist(), found.scores.tolist(), boxes, found.masks, strict=True
        ):
            counts = mask["counts"].decode("ascii").replace("\\", "\\\\")
            rows.append(
                f'{{"image_id": {image}, "category_id": {ids[label]}, "bbox": {shape(box)}, "score": {score!r}, '
                f'"segmentation": {{"size": {list(mask["size"])}, "counts": "{counts}"}}}}'
            )
    return f"[{', '.join(rows)}]"


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Within the block, raise RefexpError if a file of a run, which somebody may have edited, lacks something."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise RefexpError(f"{path} is damaged ({type(error).__name__}: {first_line(error)}); restore it.") from error


def references_to_coco(references: Sequence[Sequence[Reference]], data: Data) -> dict[str, Any]:
    """The chosen references as a COCO dict that `FileSampler` can read. Repeated references appear once."""
    split = data.references
    chosen = {reference.id: reference for per_class in references for reference in per_class}
    records = {annotation["id"]: annotation for annotation in split.annotations if annotation["id"] in chosen}
    made = {
        id_: {"segmentation": to_json(reference.mask)}
        for id_, reference in chosen.items()
        if reference.mask is not None and not has_mask(records[id_])
    }
    image_ids = dict.fromkeys(reference.image_id for reference in chosen.values())
    return {
        "images": [split.images[image_id] for image_id in image_ids],
        "annotations": [records[id_] | made.get(id_, {}) for id_ in chosen],
        "categories": split.categories(data.classes),
    }


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed npz file atomically. At level 1, which takes a quarter of NumPy's time for matches."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asarray(array), allow_pickle=False)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """An npz file's arrays, {} if there is no file. Raises RefexpError if it is damaged. Does not unpickle objects."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        return {}
    except Exception as error:  # zip, zlib and NumPy raise different types for a damaged file
        raise RefexpError(f"{path} is damaged ({first_line(error)}); restore it or remove it.") from None
