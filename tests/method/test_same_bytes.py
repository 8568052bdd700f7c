"""Key and content of an entry come from the same bytes, also if files are replaced under a running job."""

from __future__ import annotations

import os
import shutil
import threading
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from method.test_contract import Bars, Means
from PIL import Image, ImageOps
from stores import records

import refexp.data.custom
from refexp.data.custom import CustomDataset
from refexp.machine.provenance import Clock
from refexp.method.extraction import Extractor
from refexp.store.entries import Store


def extract(folder, store: Path) -> None:
    """Fill a store with the entries of all targets and of one reference."""
    data = CustomDataset(*(str(folder.root / name) for name in ("images", "references.json", "targets.json"))).load()
    settings = {part: {"_target_": f"method.test_contract.{part}"} for part in ("encoder", "proposer")}
    extractor = Extractor(Means(), Bars(), Store(str(store)), settings, torch.device("cpu"), Clock())
    reference = data.references.reference(data.references.annotations[0])
    list(extractor.prototypes(data.references, [reference]))
    list(extractor.proposals(data.targets, list(data.targets.images.values())))


@pytest.fixture
def versions(folder, tmp_path):
    """Two versions of every image, of the same size, and the right content of every entry by key."""
    kept, right = [], {}
    for number in range(2):
        for path in folder.images.iterdir():
            if number:
                ImageOps.invert(Image.open(path).convert("RGB")).save(path)
        kept.append({path: path.read_bytes() for path in folder.images.iterdir()})
        extract(folder, tmp_path / f"right-{number}")
        right |= {record.key: record.arrays for record in records(tmp_path / f"right-{number}")}
    return kept, right


def check(store: Path, right: dict) -> int:
    """Compare all entries with the right ones of their keys. Returns their number."""
    found = records(store)
    for record in found:
        expected = right[record.key]
        assert all(np.array_equal(record.arrays[name], expected[name]) for name in expected), record.key
    return len(found)


def test_files_replaced_all_the_time(folder, versions, tmp_path):
    kept, right = versions
    ended = threading.Event()

    def replace() -> None:
        for number in count():
            for path, content in kept[number % 2].items():
                temporary = tmp_path / "temporary"
                temporary.write_bytes(content)
                os.utime(temporary, ns=(number * 10**9, number * 10**9))
                temporary.replace(path)
                if ended.wait(0.002):
                    return

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for number in range(8):
            extract(folder, tmp_path / f"store-{number}")
            assert check(tmp_path / f"store-{number}", right) == 5
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("moment", ["before it is read", "after it is read"])
def test_a_file_replaced_once(moment, folder, versions, tmp_path, monkeypatch):
    """Between hashing and reading, and between reading ahead and hashing. The entry belongs to what was decoded."""
    (first, second), right = versions
    read, replaced = refexp.data.custom.read_rgb, set()

    def replacing(path, *rest):
        if moment == "after it is read":
            rgb = read(path, *rest)
        if path not in replaced:
            path.write_bytes(second[path])
            replaced.add(path)
        return rgb if moment == "after it is read" else read(path, *rest)

    for path, content in first.items():
        path.write_bytes(content)
    monkeypatch.setattr("refexp.data.custom.read_rgb", replacing)
    extract(folder, tmp_path / "store")
    assert len(replaced) == 5
    assert check(tmp_path / "store", right) == 5
    shutil.rmtree(tmp_path / "store")
