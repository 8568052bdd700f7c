"""Size and speed of a store of COCO's size and the paper's shape, and of the former format: an npz file an entry.

Generated: 880 proposals an image, 1,024 channels around 20 directions of classes, and masks that are rough ellipses.

python benchmarks/store.py                 # 500 images, 2.3 GB
python benchmarks/store.py --images 5000   # COCO's validation images, 23 GB; the npz files are of 500
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refexp.machine.runtime import keep_heap
from refexp.masks import encode
from refexp.method.extraction import pack, unpack
from refexp.store import old
from refexp.store.entries import Store, digest
from refexp.store.records import Entry
from refexp.store.upkeep import list_entries, verify
from refexp.types import Proposals

PROPOSALS, CHANNELS, CLASSES, SIZE = 880, 1024, 20, (480, 640)
MADE_BY = {"kind": "proposals", "encoder": "GENERATED", "proposer": "GENERATED"}
NPZ = 500
"""Maximum number of npz files. Their times grow with their number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="where to make the store; deleted at the end (default: /tmp)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_heap()
    print("| GENERATED store | entries | GB | write | open | list | read once | of it an entry | verify |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, images, make in (("shards", options.images, shards), ("npz files", min(options.images, NPZ), npz_files)):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(f"| {name} | {images} | {' | '.join(make(Path(folder), images))} |", flush=True)


def shards(folder: Path, images: int) -> list[str]:
    """Time the format of today. Returns the cells of a row."""
    store, writing = Store(str(folder)), 0.0
    for number, entry in enumerate(entries(images)):
        writing += seconds(lambda number=number, entry=entry: store.save(digest(number), entry, MADE_BY))
    store = Store(str(folder))
    opening = seconds(lambda: store.shards)
    return row(folder, images, writing, opening, lambda number: store.load(digest(number)))


def npz_files(folder: Path, images: int) -> list[str]:
    """Time the former format, written and read as its last version did."""
    note, writing = np.frombuffer(json.dumps(MADE_BY).encode(), dtype=np.uint8), 0.0

    def save(number: int, entry: Entry) -> None:
        path = old.path_of(folder, digest(number))
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **{"made_by": note} | entry)  # type: ignore[arg-type]

    def load(number: int) -> Entry:
        with np.load(old.path_of(folder, digest(number)), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files if name != "made_by"}

    for number, entry in enumerate(entries(images)):
        writing += seconds(lambda number=number, entry=entry: save(number, entry))
    return row(folder, images, writing, None, load)


def row(
    folder: Path, images: int, writing: float, opening: float | None, load: Callable[[int], Entry | None]
) -> list[str]:
    """Time what both formats do. Returns the cells of a row."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    listing = seconds(lambda: list_entries(folder))
    each = np.array([seconds(lambda number=number: unpack(load(number) or {})) for number in range(images)])
    reading = [seconds(lambda number=number: load(number)) for number in list(range(images))[-100:] * 2][-100:]
    verifying = seconds(lambda: verify(folder, delete=False))
    return [
        f"{size / 1e9:.2f}", f"{writing:.1f} s", "-" if opening is None else f"{1000 * opening:.0f} ms",
        f"{listing:.2f} s", f"{each.sum():.1f} s",
        f"{1000 * np.median(each):.2f} ms unpacked; again, warm, without unpacking {1000 * np.median(reading):.2f} ms",
        f"{verifying:.1f} s",
    ]  # fmt: skip


def seconds(function: Callable[[], Any]) -> float:
    """Time one call, without what it prints."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        function()
    return time.perf_counter() - start


def entries(images: int) -> Iterator[Entry]:
    """Generate entries of the paper's shape."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((CLASSES, CHANNELS), dtype=np.float32) / np.sqrt(CHANNELS)
    masks = encode(np.stack([ellipse(rng) for _ in range(400)]))
    for _ in range(images):
        noise = rng.standard_normal((PROPOSALS, CHANNELS), dtype=np.float32) / np.sqrt(CHANNELS)
        rows = torch.from_numpy(directions[rng.integers(CLASSES, size=PROPOSALS)] + 0.8 * noise)
        proposals = Proposals(
            quality=torch.from_numpy(rng.random(PROPOSALS, dtype=np.float32)),
            boxes_lr=torch.from_numpy(rng.integers(0, 256, (PROPOSALS, 4)).astype(np.float32)),
            features=torch.nn.functional.normalize(rows, dim=1),
            masks=[masks[number] for number in rng.integers(len(masks), size=PROPOSALS)],
            size=SIZE,
        )
        yield pack(proposals, "float32")


def ellipse(rng: np.random.Generator) -> np.ndarray:
    """A rough ellipse, bool [H, W]: its code has some hundred bytes, as those of SAM2's masks have."""
    height, width = SIZE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    a, b = np.exp(rng.uniform(np.log(8), np.log(160), 2))
    distance = ((x - rng.uniform(0, width)) / a) ** 2 + ((y - rng.uniform(0, height)) / b) ** 2
    rough = np.kron(rng.standard_normal((height // 8, width // 8)), np.ones((8, 8)))
    return distance + 0.15 * rough < 1


if __name__ == "__main__":
    main()
