"""Whole runs that share a new store, two of them killed and started again: the same results, each entry once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from stores import records

from refexp.store.shards import Shards

SETTINGS = ["dataset.targets=12", "dataset.references=12", "shots=1", "vis.report=false", "vis.limit=0"]
SEEDS = range(6)


def start(folder: Path, store: Path, seed: int) -> subprocess.Popen[bytes]:
    """Start a run whose output is in `folder`."""
    words = [*SETTINGS, f"seed={seed}", f"store.dir={store}", f"hydra.run.dir={folder}"]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *words],
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=log,
        )  # fmt: skip


def entries(store: Path) -> set[str]:
    """The keys of the entries that a new process finds."""
    shards = Shards(store)
    shards.refresh()
    return set(shards.places)


def kill(run: subprocess.Popen[bytes], store: Path) -> set[str]:
    """Kill a run. Returns the keys of the entries that it had claimed."""
    run.send_signal(signal.SIGSTOP)  # so that it does not end a claim between the look and its death
    held = {path.stem for path in store.glob("claims/*") if f"process {run.pid} on " in path.read_text()}
    run.kill()
    run.wait()
    return held


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[dict[int, bytes], set[str]]:
    """The detections of each seed, run alone, and the keys of all their entries."""
    root, found, keys = tmp_path_factory.mktemp("alone"), {}, set()
    for seed in SEEDS:
        assert start(root / str(seed), root / f"store{seed}", seed).wait(600) == 0
        found[seed] = (root / str(seed) / "detections.json").read_bytes()
        keys |= entries(root / f"store{seed}")
    return found, keys


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_runs_that_are_killed_and_started_again(number, alone, tmp_path):
    rng, store = random.Random(number), tmp_path / "store"
    detections, keys = alone
    running = {seed: start(tmp_path / str(seed), store, seed) for seed in SEEDS}
    claimed: set[str] = set()
    moments = sorted(rng.sample(range(len(keys)), 2))
    for seed, moment in zip(rng.sample(SEEDS, 2), moments, strict=True):
        while len(entries(store)) < moment:
            time.sleep(0.05)
        time.sleep(rng.random())
        claimed |= kill(running[seed], store)
        running[seed] = start(tmp_path / str(seed), store, seed)
    for seed, run in running.items():
        assert run.wait(600) == 0, (tmp_path / f"{seed}.log").read_text()
    for seed in SEEDS:
        assert (tmp_path / str(seed) / "detections.json").read_bytes() == detections[seed]
    written = Counter(record.key for record in records(store))
    assert written.keys() == entries(store) == keys
    assert {key for key, times in written.items() if times > 1} <= claimed
    print(f"{len(keys)} entries, {written.total()} computed, {len(claimed)} claimed by killed runs")
    assert not list((store / "claims").iterdir())
