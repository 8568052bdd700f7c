"""The store: right or absent, shared by jobs, safe against damage and death."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import time

import numpy as np
import pytest
import torch
from runs import refexp, run
from stores import flip, place_of

from refexp.config.components import build_experiment
from refexp.config.composing import compose_config
from refexp.errors import RefexpError
from refexp.machine.provenance import Clock
from refexp.masks import encode
from refexp.method.extraction import Extractor, pack, unpack
from refexp.store.entries import Store, digest
from refexp.types import Proposals


def some_proposals(count: int = 5) -> Proposals:
    rng = np.random.default_rng(0)
    return Proposals(
        quality=torch.from_numpy(rng.random(count, dtype=np.float32)),
        boxes_lr=torch.from_numpy(rng.integers(0, 256, (count, 4)).astype(np.float32)),
        features=torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((count, 7)).astype(np.float32))),
        masks=encode(rng.random((count, 30, 40)) > 0.5) if count else [],
        size=(30, 40),
    )


@pytest.mark.parametrize("count", [5, 1, 0])
def test_entries_come_back_as_they_were(count, tmp_path):
    store, original = Store(str(tmp_path)), some_proposals(count)
    store.save(digest(1), pack(original, "float32"), {"kind": "test"})
    again = unpack(store.load(digest(1)))
    for name in ("quality", "boxes_lr", "features"):
        assert torch.equal(getattr(again, name), getattr(original, name))
    assert again.masks == original.masks
    assert again.size == original.size


def test_half_precision_is_close_and_smaller():
    original = some_proposals()
    entry = pack(original, "float16")
    assert entry["features"].nbytes * 2 == pack(original, "float32")["features"].nbytes
    torch.testing.assert_close(unpack(entry).features, original.features, atol=1e-3, rtol=0)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_damaged_entries_are_never_trusted(damage, tmp_path, caplog, capsys):
    store, key = Store(str(tmp_path)), digest(1)
    store.save(key, pack(some_proposals(), "float32"), {"kind": "test"})
    path, place = place_of(tmp_path, key)
    content = path.read_bytes()
    if damage == "flip":
        flip(path, place.offset + place.length // 2)
    else:
        path.write_bytes({"cut": content[:-100], "empty": b"", "text": b"hello"}[damage])
    assert refexp("store", "--dir", str(tmp_path), "verify") == 1
    assert str(path) in capsys.readouterr().out
    assert Store(str(tmp_path)).load(key) is None
    assert store.load(key) is None
    assert [f"{path} is damaged and is computed again" in line for line in caplog.messages] == [True]
    assert key in caplog.text
    ((_, entry),) = store.share([0], lambda _: key, lambda _: [pack(some_proposals(), "float32")], {"kind": "test"})
    assert unpack(entry).masks == some_proposals().masks
    assert refexp("store", "--dir", str(tmp_path), "verify", "--delete") == 0
    again = Store(str(tmp_path)).load(key)
    assert unpack(again).masks == some_proposals().masks
    assert refexp("store", "--dir", str(tmp_path), "verify") == 0


def work(folder, count, done, delay=0.02, batch=1, start=None, stuck=None):
    """One job: obtain all entries, note each computation. start: when all go; stuck: set at item 5, and no further."""
    if start:
        start.wait(60)

    def compute(batch):
        if stuck and 5 in batch:
            stuck.set()
            time.sleep(600)
        with done.open("a") as file:
            file.writelines(f"{os.getpid()} {item}\n" for item in batch)
        time.sleep(delay)
        return [{"value": np.array([item])} for item in batch]

    got = dict(Store(folder).share(range(count), digest, compute, {}, batch))
    assert {item: int(entry["value"][0]) for item, entry in got.items()} == {i: i for i in range(count)}


@pytest.mark.parametrize("batch", [1, 3])
def test_jobs_share_the_work(tmp_path, batch):
    done, jobs, fork = tmp_path / "done", [], multiprocessing.get_context("fork")
    start = fork.Barrier(4)
    for _ in range(4):
        jobs.append(fork.Process(target=work, args=(str(tmp_path / "s"), 40, done, 0.02 * batch, batch, start)))
        jobs[-1].start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    computed = [int(line.split()[1]) for line in done.read_text().splitlines()]
    assert sorted(computed) == list(range(40))
    assert len({line.split()[0] for line in done.read_text().splitlines()}) > 1


def test_a_killed_job_loses_nothing(tmp_path):
    done, folder = tmp_path / "done", str(tmp_path / "s")
    fork = multiprocessing.get_context("fork")
    stuck = fork.Event()
    victim = fork.Process(target=work, args=(folder, 30, done, 0.01, 1, None, stuck))
    victim.start()
    assert stuck.wait(60)
    heir = fork.Process(target=work, args=(folder, 30, done, 0.01))
    heir.start()
    victim.kill()
    victim.join()
    heir.join(60)
    assert heir.exitcode == 0
    assert [int(line.split()[1]) for line in done.read_text().splitlines()].count(5) == 1  # the one the victim was on
    assert len(done.read_text().splitlines()) == 30
    assert not list((tmp_path / "s/claims").iterdir())


def test_an_unusable_store_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RefexpError, match=r"store\.dir: cannot .*file"):
        list(Store(str(tmp_path / "file")).share([0], digest, lambda _: [{}], {}))


def test_command_line(tmp_path, capsys):
    store = Store(str(tmp_path))
    store.save(digest(1), pack(some_proposals(), "float32"), {"kind": "proposals", "encoder": "DINOv2(arch=vits14)"})
    store.save(digest(2), pack(some_proposals(), "float32"), {"kind": "prototype", "encoder": "Lite"})
    assert refexp("store", "--dir", str(tmp_path), "ls") == 0
    shown = capsys.readouterr().out
    assert re.search(r"1 entries .* MiB  encoder=DINOv2\(arch=vits14\), kind=proposals", shown)
    assert "2 entries" in shown
    assert refexp("store", "--dir", str(tmp_path), "prune", "--made-by", "kind=proposals") == 0
    assert store.load(digest(1)) is None
    assert store.load(digest(2)) is not None
    assert refexp("store", "--dir", str(tmp_path), "prune", "--older-than", "1") == 0
    assert store.load(digest(2)) is not None
    assert refexp("store", "--dir", str(tmp_path), "prune", "--all") == 0
    assert store.load(digest(2)) is None
    assert refexp("store", "--dir", str(tmp_path / "nowhere"), "ls") == 2


def results(folder):
    return (folder / "detections.json").read_bytes(), json.loads((folder / "metrics.json").read_text())["metrics"]


def test_cold_warm_and_half_warm_give_the_same_bytes(folder, configure, tmp_path):
    run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "cold")
    run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "warm")
    store = Store(str(tmp_path / "store"))
    held = sorted(store.shards.places.items())
    assert len(held) == 4 + 2  # images and references
    for key, place in held[::2]:
        store.shards.drop(key, place)
    run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "half")
    assert results(tmp_path / "cold") == results(tmp_path / "warm") == results(tmp_path / "half")


def test_stages(folder, configure, tmp_path, monkeypatch):
    with pytest.raises(RefexpError, match=r"stage=ablate: reference \d+ is not in the store"):
        run(configure(*folder.overrides(), "stage=ablate"), tmp_path / "early")
    assert not (tmp_path / "store").exists()  # it only reads: a read-only store will do
    assert run(configure(*folder.overrides(), "stage=extract"), tmp_path / "extract") == {}

    def refuse(self, *arguments):
        raise AssertionError("the ablation half builds no network and reads no image")

    monkeypatch.setattr("refexp.encoders.efficientnet.EfficientNetLite0.load", refuse)
    monkeypatch.setattr("refexp.data.custom.read_rgb", refuse)
    metrics = run(configure(*folder.overrides(), "stage=ablate", "vis.limit=0"), tmp_path / "ablate")
    monkeypatch.undo()
    assert metrics == run(configure(*folder.overrides(), "vis.limit=0"), tmp_path / "all")


def test_a_matcher_that_encodes_again_needs_the_encoder_alone(folder, configure, tmp_path, monkeypatch, caplog):
    common = [*folder.overrides(), "proposer=regions", "matcher=cyclic", "vis.limit=0", "vis.memory_bank=true"]
    metrics = run(configure(*common), tmp_path / "all")
    monkeypatch.setattr("refexp.proposers.regions.RegionProposer.load", lambda *_: pytest.fail("the store has all"))
    caplog.clear()
    caplog.set_level("INFO")
    assert run(configure(*common, "stage=ablate"), tmp_path / "ablate") == metrics
    assert [line.split(" on ")[0] for line in caplog.messages if line.startswith("network")] == [
        "network of the encoder"
    ]


def test_networks_are_loaded_once():
    loads: list[str] = []
    experiment = build_experiment(compose_config([]))
    for part in ("encoder", "proposer"):
        component = getattr(experiment, part)
        component.load = lambda device, part=part: loads.append(part)
    extractor = Extractor(
        experiment.encoder, experiment.proposer, experiment.store, experiment.config, torch.device("cpu"), Clock()
    )
    for load in (
        extractor.load_encoder,
        extractor.load_encoder,
        extractor.load,
        extractor.load,
        extractor.load_encoder,
    ):
        load()
    assert loads == ["encoder", "proposer"]


def keys_of(folder, configure, *overrides) -> list[str]:
    """The store keys of the first reference and the first target under a configuration."""
    experiment = build_experiment(configure(*folder.overrides(), *overrides))
    data = experiment.dataset.load()
    extractor = Extractor(
        experiment.encoder, experiment.proposer, experiment.store, experiment.config, torch.device("cpu"), Clock()
    )
    image = next(iter(data.targets.images.values()))
    truth = [data.targets.mask(a) for a in data.targets.by_image[image["id"]]]
    reference = data.references.reference(data.references.annotations[0])
    return [extractor.reference_key(data.references, reference), extractor.target_key(data.targets, image, truth)]


def test_keys_cover_what_a_result_depends_on(folder, configure):
    plain = keys_of(folder, configure)
    assert keys_of(folder, configure, "seed=5", "matcher=shuffled", "postprocess.topk.k=3") == plain
    assert keys_of(folder, configure, f"checkpoints.dir={folder.root}") == plain

    def differs(*overrides):
        return [a != b for a, b in zip(plain, keys_of(folder, configure, *overrides), strict=True)]

    assert differs("encoder.input_size=256") == [True, True]
    assert differs("proposer.image_size=512") == [False, True]
    assert differs("encoder.reference_context=0.2") == [True, False]
    assert differs("encoder.reference_views=[flip]") == [True, False]
    assert differs("encoder.reference_views=[]") == [False, False]
    assert differs("store.dtype=float16") == [True, True]
    assert differs("weights=random") == [True, True]

    path = folder.images / "targets_1.png"
    path.write_bytes(path.read_bytes() + b" ")  # other bytes, same pixels
    assert differs() == [False, True]
    path.write_bytes(path.read_bytes()[:-1])
    assert differs() == [False, False]
    folder.targets["annotations"] = folder.targets["annotations"][1:]
    folder.save()
    assert differs() == [False, True]  # the oracle sees the ground truth


def test_all_references_can_be_computed_at_once(folder, configure, tmp_path):
    run(configure(*folder.overrides(), "store.references=all", "vis.limit=0"), tmp_path / "first")
    others = [o for o in folder.overrides() if not o.startswith(("shots", "seed"))]
    for seed in range(4):
        run(configure(*others, "shots=2", f"seed={seed}", "stage=ablate", "vis.limit=0"), tmp_path / str(seed))


OUTSIDE = """
from refexp.proposers.oracle import OracleProposer

class Mine(OracleProposer):
    def __init__(self, image_size: int = 512, blur: float = {blur}) -> None:
        super().__init__(image_size)
"""


def test_code_and_defaults_of_a_component_from_outside_are_in_its_keys(folder, configure, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    keys = []
    for name, blur in (("outside_one", 1.0), ("outside_two", 2.0)):
        (tmp_path / f"{name}.py").write_text(OUTSIDE.format(blur=blur))
        keys.append(keys_of(folder, configure, "~proposer", f"+proposer={{_target_:{name}.Mine}}")[1])
    assert keys[0] != keys[1]
    (tmp_path / "outside_one.py").write_text(OUTSIDE.format(blur=1.0) + "# edited")
    assert keys_of(folder, configure, "~proposer", "+proposer={_target_:outside_one.Mine}")[1] != keys[0]
