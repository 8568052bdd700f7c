"""Entries of older versions: read if they are sound, computed again if anything in them is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import refexp
from stores import flip, save_old

from refexp.masks import areas, decode, encode
from refexp.method.extraction import unpack
from refexp.store import old
from refexp.store.entries import Store
from refexp.store.records import Damaged

KEY = "ab" * 32
V0 = Path(__file__).parents[1] / "fixtures/v0/store"


def proposals(**changed: np.ndarray) -> dict[str, np.ndarray]:
    masks = encode(np.random.default_rng(0).random((3, 30, 40)) > 0.5)
    codes = [mask["counts"] for mask in masks]
    return {
        "quality": np.ones(3, dtype=np.float32),
        "boxes_lr": np.zeros((3, 4), dtype=np.int16),
        "features": np.ones((3, 7), dtype=np.float32),
        "masks": np.frombuffer(b"".join(codes), dtype=np.uint8),
        "mask_lengths": np.array([len(code) for code in codes]),
        "size": np.array([30, 40]),
    } | changed


def longer(entry: dict[str, np.ndarray]) -> np.ndarray:
    """The lengths of its masks, with one character moved from one to another."""
    return entry["mask_lengths"] + np.array([1, -1, 0])


FAULTS = {
    "another size": proposals(size=np.array([30, 41])),
    "three sizes": proposals(size=np.array([30, 40, 1])),
    "no size": {name: array for name, array in proposals().items() if name != "size"},
    "another array": proposals(more=np.zeros(1)),
    "fewer features": proposals(features=np.ones((2, 7), dtype=np.float32)),
    "flat features": proposals(features=np.ones(21, dtype=np.float32)),
    "integer features": proposals(features=np.ones((3, 7), dtype=np.int32)),
    "flat boxes": proposals(boxes_lr=np.zeros((3, 2), dtype=np.int16)),
    "lengths": proposals(mask_lengths=longer(proposals())),
    "negative lengths": proposals(mask_lengths=proposals()["mask_lengths"] + np.array([10_000, -10_000, 0])),
    "masks": proposals(masks=proposals()["masks"][:-1]),
    "another code": proposals(masks=np.where(np.arange(len(proposals()["masks"])) == 5, 48, proposals()["masks"])),
    "codes that never end": proposals(masks=proposals()["masks"] | 32),
    "a mask that never ends": {"mask": np.frombuffer(b"PPPP", dtype=np.uint8)},
    "an empty mask": {"mask": np.zeros(0, dtype=np.uint8)},
    "two prototypes": {"prototype": np.zeros((2, 3), dtype=np.float32)},
    "nothing": {},
}


@pytest.mark.parametrize("entry", FAULTS.values(), ids=FAULTS)
def test_sound_archives_with_nonsense_are_refused(entry, tmp_path, caplog):
    path = save_old(tmp_path, KEY, entry)
    store = Store(str(tmp_path))
    assert store.load(KEY) is None and store.load(KEY) is None
    assert [str(path) in line for line in caplog.messages] == [True]


@pytest.mark.parametrize("source", sorted(V0.glob("*/*.npz")), ids=lambda path: path.name[:4])
def test_flipped_bits_change_no_array(source, tmp_path):
    """Bits of dates and the like may change: what counts is that no array does."""
    expected, rng = old.read(source)[0], np.random.default_rng(0)
    path = Path(shutil.copy(source, tmp_path / source.name))
    noticed = 0
    for bit in rng.integers(0, 8 * path.stat().st_size, 400).tolist():
        flip(path, bit // 8, bit % 8)
        try:
            found, _ = old.read(path)
        except Damaged:
            noticed += 1
        else:
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], expected[name]) for name in expected)
            assert all(found[name].dtype == expected[name].dtype for name in expected)
        flip(path, bit // 8, bit % 8)
    assert noticed > 200


@pytest.mark.parametrize("count", [0, 1, 5])
def test_pixels_of_run_lengths(count):
    rng = np.random.default_rng(count)
    masks = rng.random((count, 50, 300)) > rng.random((count, 50, 1))
    codes = [mask["counts"] for mask in encode(masks)] if count else []
    joined, lengths = np.frombuffer(b"".join(codes), dtype=np.uint8), np.array([len(c) for c in codes], dtype=np.int64)
    assert old.pixels_of(joined, lengths).tolist() == [50 * 300] * count


def test_entries_of_older_versions_hit(tmp_path):
    path = save_old(tmp_path, KEY, proposals())
    found = unpack(Store(str(tmp_path)).load(KEY))
    assert decode(found.masks).shape == (3, 30, 40) and areas(found.masks).all()
    assert Store(str(tmp_path)).size(KEY) == path.stat().st_size


def test_old_stores_are_listed_and_pruned(tmp_path, capsys):
    shutil.copytree(V0, tmp_path, dirs_exist_ok=True)
    flip(next(tmp_path.glob("4b/*.npz")), 3)
    assert refexp("store", "--dir", tmp_path, "ls") == 0
    shown = capsys.readouterr().out
    assert "2 entries" in shown and "kind=proposals" in shown and "UNKNOWN settings" in shown and "5 entries" in shown
    assert refexp("store", "--dir", tmp_path, "prune", "--made-by", "kind=proposals") == 0
    assert refexp("store", "--dir", tmp_path, "verify", "--delete") == 0
    assert len(list(old.paths(tmp_path))) == 2
