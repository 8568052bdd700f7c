"""What store entries hold is pinned: it changes only when `store.FORMAT` of their kind, or a `revision`, goes up.

An entry's key holds these numbers and nothing else of this package's code, so a run would take entries of older code
for its own. fixtures/entries.npz holds what the code made when these numbers went up last; of features every 16th
channel, and of tokens also every 4th patch alone.

    # Make the fixture anew, if FORMAT went up where entries changed:
    PYTHONPATH=tests python tests/store/test_store_content.py

Where a new PyTorch or timm draws other random weights, nothing of ours is stale: delete the fixture before.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stores import records

from refexp.config.components import build_networks
from refexp.config.composing import compose_config, resolve
from refexp.data.coco import Split, make_split
from refexp.data.rendering import render_split
from refexp.machine.provenance import Clock
from refexp.masks import decode, encode
from refexp.method.extraction import Extractor, unpack
from refexp.store.entries import FORMAT, Entry, Store

FIXTURE = Path(__file__).parents[1] / "fixtures" / "entries.npz"
REMAKE = "PYTHONPATH=tests python tests/store/test_store_content.py"
NETWORKS = {
    "default": ["encoder=efficientnet_lite0", "proposer=regions"],
    "sam2": [
        "encoder=dinov2_vits14", "encoder.input_size=224", "proposer=sam2_hiera_t", "proposer.points_per_side=4",
        "proposer.iou_threshold=0", "weights=random",
    ],
}  # fmt: skip
"""SAM2 has seeded random weights here, and DINOv2, too."""
PINNED = [(networks, kind) for networks in NETWORKS for kind in FORMAT if (networks, kind) != ("default", "box mask")]
CLOSE = 1e-4
"""How far floats may be off, of their array's largest: processors differ in the last digits."""
CHANGED = {"float32": np.float32(1.001), "float16": np.float16(1.01)}
"""A change of arrays that must be noticed."""
STRIDE = 16
"""Of channels, one in so many is pinned."""


def scene() -> Split:
    """One drawn image with its instances."""
    (picture,), content = render_split(3, ("ladybird", "leaf"), 1, "targets")
    names = [category["name"] for category in content["categories"]]
    return make_split(content, "scene", names, lambda _: picture, lambda _: "the only image")


def make(networks: str) -> dict[str, Entry]:
    """The entries that a run of these networks leaves, by kind."""
    split = scene()
    image, reference = next(iter(split.images.values())), split.reference(split.annotations[0])
    settings = resolve(compose_config(NETWORKS[networks]))
    proposer, encoder = build_networks(settings)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        extractor = Extractor(encoder, proposer, store, settings, torch.device("cpu"), Clock())
        extractor.load()
        if networks == "sam2":
            proposer.model.forward_image = asked_once(proposer.model.forward_image)
        extractor.fill(split, [image], with_tokens=True)
        list(extractor.prototypes(split, [reference]))
        if (networks, "box mask") in PINNED:
            extractor.with_masks(split, [[replace(reference, mask=None)]])
        found = {store.shards.settings_of(record.made_by)["kind"]: record.arrays for record in records(Path(folder))}
    if "mask of a box" in found:
        found["box mask"] = found.pop("mask of a box")
    return {kind: {name: pinned(name, array) for name, array in entry.items()} for kind, entry in found.items()}


def asked_once(function: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """The function with a memory of its last answer: SAM2 sees one square twice here, which takes seconds."""
    last: list = []

    def ask(square: torch.Tensor) -> Any:
        if not last or not torch.equal(last[0], square):
            last[:] = square, function(square)
        return last[1]

    return ask


def pinned(name: str, array: np.ndarray) -> np.ndarray:
    """An array as the fixture holds it."""
    return array[:, ::STRIDE] if name == "features" else array[::4, ::STRIDE] if name == "tokens" else array


def difference(kind: str, now: Entry, then: Entry) -> str | None:
    """What is not the same in two entries; None if all is."""
    if [(name, a.dtype) for name, a in sorted(now.items())] != [(name, a.dtype) for name, a in sorted(then.items())]:
        return f"the arrays: {sorted(now)}, before {sorted(then)}"
    masks = {"masks", "mask_lengths", "mask"}
    for name in sorted(now.keys() - masks):
        if now[name].shape != then[name].shape:
            return f"{name}: {now[name].shape}, before {then[name].shape}"
        off = np.abs(now[name].astype(float) - then[name]).max(initial=0)
        close = 1e-3 if now[name].dtype == np.float16 else CLOSE
        limit = close * np.abs(then[name]).max(initial=0) if now[name].dtype.kind == "f" else name == "boxes_lr"
        if not off <= limit:
            return f"{name} by up to {off:.2g}"
    if not masks & now.keys():
        return None
    new, old = (decode(masks_of(kind, entry)) for entry in (now, then))
    both, either, apart = (f(new, old).sum(axis=(1, 2)) for f in (np.logical_and, np.logical_or, np.logical_xor))
    wrong = (apart > 3) & (both < 0.999 * either)
    return f"{wrong.sum()} of {len(wrong)} masks, one by {apart.max()} pixels" if wrong.any() else None


def masks_of(kind: str, entry: Entry) -> list:
    if kind == "proposals":
        return unpack(entry).masks
    record = next(iter(scene().images.values()))
    return [{"size": [record["height"], record["width"]], "counts": entry["mask"].tobytes()}]


def load() -> tuple[dict[str, int], dict[tuple[str, str], Entry]]:
    """The fixture: FORMAT as of when it was made, and the entries by networks and kind."""
    entries: dict[tuple[str, str], Entry] = {}
    with np.load(FIXTURE, allow_pickle=False) as arrays:
        for path in set(arrays.files) - {"FORMAT"}:
            networks, kind, name = path.split("/")
            entries.setdefault((networks, kind), {})[name] = arrays[path]
        return json.loads(str(arrays["FORMAT"])), entries


def verdict(networks: str, kind: str, now: Entry, then: Entry, made_at: dict[str, int]) -> str | None:
    """What is to be done, if anything."""
    if made_at.get(kind) != FORMAT[kind]:
        return (
            f"FORMAT['{kind}'] is {FORMAT[kind]}, and the fixture is of {made_at.get(kind)}. "
            f"Remake the fixture: {REMAKE}"
        )
    if changed := difference(kind, now, then):
        return (
            f"'{kind}' entries of {networks} are not what they were ({changed}): a store would hold stale ones. "
            f"Raise FORMAT['{kind}'] in refexp/store/entries.py, or the component's revision, and remake the fixture: "
            f"{REMAKE}"
        )
    return None


@pytest.fixture(scope="module")
def fixture() -> tuple[dict[str, int], dict[tuple[str, str], Entry]]:
    return load()


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, Entry]]:
    # In a process of its own: what other tests leave set in PyTorch can move the last digits.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return dict(zip(NETWORKS, apart.map(make, NETWORKS), strict=True))


@pytest.mark.parametrize(("networks", "kind"), PINNED)
def test_entries_change_with_their_format_alone(networks, kind, made, fixture):
    made_at, entries = fixture
    if wrong := verdict(networks, kind, made[networks][kind], entries[networks, kind], made_at):
        pytest.fail(wrong, pytrace=False)


def test_the_fixture_pins_something(fixture):
    _, entries = fixture
    assert set(entries) == set(PINNED)
    assert len(entries["default", "proposals"]["quality"]) > 50
    assert len(entries["sam2", "proposals"]["quality"]) > 8
    assert decode(masks_of("box mask", entries["sam2", "box mask"])).any()
    assert FIXTURE.stat().st_size < 150_000


@pytest.mark.parametrize(("networks", "kind"), PINNED)
def test_a_change_is_seen(networks, kind, fixture, monkeypatch):
    made_at, then = dict(FORMAT), fixture[1][networks, kind]
    assert verdict(networks, kind, then, then, made_at) is None
    for name, array in then.items():
        if array.dtype.kind == "f":
            assert f"Raise FORMAT['{kind}']" in verdict(
                networks, kind, then | {name: array * CHANGED[array.dtype.name]}, then, made_at
            )
    fewer = {name: array for name, array in then.items() if name != next(iter(then))}
    assert "the arrays" in verdict(networks, kind, fewer, then, made_at)
    monkeypatch.setitem(FORMAT, kind, FORMAT[kind] + 1)
    assert "Remake the fixture" in verdict(networks, kind, then, then, made_at)


def test_masks_that_move_are_seen(fixture):
    then = fixture[1]["sam2", "box mask"]
    (mask,) = decode(masks_of("box mask", then))

    def entry(array: np.ndarray) -> Entry:
        return {"mask": np.frombuffer(encode(array[None])[0]["counts"], dtype=np.uint8)}

    flipped = mask.copy()
    flipped[0, :3] ^= True
    assert difference("box mask", entry(flipped), then) is None
    assert difference("box mask", entry(np.roll(mask, 1, axis=1)), then)


def main() -> int:
    """Make the fixture, unless entries changed and their FORMAT did not; the exit code."""
    made = {networks: make(networks) for networks in NETWORKS}
    if FIXTURE.exists():
        made_at, entries = load()
        for networks, kind in PINNED:
            same = made_at.get(kind) == FORMAT[kind] and (networks, kind) in entries
            if same and (wrong := verdict(networks, kind, made[networks][kind], entries[networks, kind], made_at)):
                print(f"error: {wrong}", file=sys.stderr)
                return 1
    FIXTURE.parent.mkdir(exist_ok=True)
    arrays = {
        f"{networks}/{kind}/{name}": array for networks, kind in PINNED for name, array in made[networks][kind].items()
    }
    np.savez_compressed(FIXTURE, FORMAT=np.array(json.dumps(FORMAT)), **arrays)
    print(f"{FIXTURE}: {FIXTURE.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
