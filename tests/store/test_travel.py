"""A store travels: a data set's entries serve an ablation on a machine without its images."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import Folder
from omegaconf import DictConfig
from runs import refexp, run
from stores import flip, records

from refexp.config.composing import compose_config
from refexp.errors import RefexpError
from refexp.store.entries import Store
from refexp.store.repack import shard_files


class Made:
    """A data set whose images are gone, its run, the export of its store, and the store."""

    def __init__(self, root: Path, drawn: dict[str, tuple]) -> None:
        self.folder = Folder(root / "data", drawn)
        self.run, self.export, self.store, self.images = (root / name for name in ("run", "export", "store", "images"))
        run(self.config(self.store, "vis.limit=0", "store.references=all"), self.run)
        assert refexp("store", "--dir", self.store, "export", self.export, *self.folder.overrides()) == 0
        self.folder.images.rename(self.images)

    def config(self, store: Path, *overrides: str) -> DictConfig:
        return compose_config([*self.folder.overrides(), f"store.dir={store}", *overrides])


@pytest.fixture(scope="module")
def made(tmp_path_factory, drawn) -> Made:
    return Made(tmp_path_factory.mktemp("made"), drawn)


@pytest.fixture
def store(made, tmp_path) -> Path:
    """A store into which the data set is imported, and nothing else."""
    assert refexp("store", "--dir", tmp_path / "store", "import", made.export) == 0
    return tmp_path / "store"


def manifest_of(store: Path) -> Path:
    (path,) = (store / "manifests").iterdir()
    return path


def test_an_ablation_without_the_images(made, store, tmp_path, caplog):
    there = tmp_path / "there"
    metrics = run(made.config(store, "stage=ablate", "vis.limit=2"), there)
    assert (there / "detections.json").read_bytes() == (made.run / "detections.json").read_bytes()
    assert metrics == json.loads((made.run / "metrics.json").read_text())["metrics"]
    (told,) = [line for line in caplog.messages if "drawn" in line]
    assert told.startswith("overlays were not drawn: pictures are missing, because the images of ")
    assert "pictures are missing" in (there / "report.html").read_text()
    others = [word for word in made.folder.overrides() if not word.startswith("seed")]
    for seed in range(1, 3):
        words = [*others, f"seed={seed}", f"store.dir={store}", "stage=ablate", "vis.limit=0", "vis.report=false"]
        run(compose_config(words), tmp_path / str(seed))


def test_the_manifest_says_what_it_is_of(made):
    content = json.loads(manifest_of(made.export).read_text())
    assert len(content["images"]["targets"]) == 4
    assert set(content["images"]["references"][0]) == {"id", "file_name", "height", "width", "fingerprint"}
    assert set(content["settings"]) == {"dataset", "encoder", "proposer"}


def test_what_is_missing_is_named(made, store, tmp_path, capsys):
    with pytest.raises(RefexpError, match="no such folder"):  # nothing was imported
        run(made.config(tmp_path / "empty", "stage=ablate"), tmp_path / "early")
    with pytest.raises(RefexpError, match="no such folder"):  # only an ablation works without images
        run(made.config(store), tmp_path / "all")
    with pytest.raises(RefexpError, match="is not in the store"):
        run(made.config(store, "stage=ablate", "encoder.input_size=256"), tmp_path / "other")
    assert refexp("store", "--dir", store, "import", made.run) == 1
    assert "holds no exported store" in capsys.readouterr().err
    assert refexp("store", "--dir", store, "import", made.export) == 0  # again: nothing to do
    manifest_of(store).write_text("{}")
    with pytest.raises(RefexpError, match="is not a manifest"):
        run(made.config(store, "stage=ablate"), tmp_path / "damaged")


def test_importing_again_repairs_what_was_damaged(made, tmp_path, caplog, capsys):
    """A copy that was cut short, then a whole one."""
    cut, store = tmp_path / "cut", tmp_path / "store"
    shutil.copytree(made.export, cut)
    (shard,) = shard_files(cut)
    os.truncate(shard, shard.stat().st_size - 100)
    whole = manifest_of(cut).read_text()
    manifest_of(cut).write_text(whole[:100])
    assert refexp("store", "--dir", store, "import", cut) == 1
    assert "is damaged" in capsys.readouterr().err
    manifest_of(cut).write_text(whole)
    assert refexp("store", "--dir", store, "import", cut) == 0
    assert f"{cut}: 1 entries are damaged and were not imported" in caplog.text
    with pytest.raises(RefexpError, match="is not in the store"):
        run(made.config(store, "stage=ablate", "vis.limit=0"), tmp_path / "early")
    manifest_of(store).write_text(whole[:100])
    capsys.readouterr()
    assert refexp("store", "--dir", store, "import", made.export) == 0
    assert "1 entries and 1 manifests imported" in capsys.readouterr().out
    manifest_of(store).with_name(".half.json").write_text("{")  # of an import that was killed
    run(made.config(store, "stage=ablate", "vis.limit=0"), tmp_path / "there")
    before = sorted((path, path.stat().st_size) for path in store.rglob("*"))
    for source in (made.export, store):
        assert refexp("store", "--dir", store, "import", source) == 0
    assert sorted((path, path.stat().st_size) for path in store.rglob("*")) == before


def test_exporting_again_adds_nothing_and_a_damaged_entry_is_named(made, store, tmp_path, capsys):
    words = [*made.folder.overrides(), f"dataset.images={made.images}"]
    for _ in range(2):
        assert refexp("store", "--dir", store, "export", tmp_path / "out", *words) == 0
    assert len(records(tmp_path / "out")) == len(Store(str(tmp_path / "out")).shards.places)
    key, place = next(iter(Store(str(store)).shards.places.items()))
    flip(store / "shards" / f"{place.shard}.shard", place.offset + 100)
    capsys.readouterr()
    assert refexp("store", "--dir", store, "export", tmp_path / "other", *words) == 1
    assert f"entry {key} in {store} is damaged; run stage=extract first" in capsys.readouterr().err


def test_two_data_sets_whose_images_have_the_same_names(made, store, tmp_path):
    path = manifest_of(store)
    content = json.loads(path.read_text())
    for image in content["images"]["targets"]:
        image["fingerprint"] = "0" * 64
    path.with_name("other.json").write_text(json.dumps(content))
    with pytest.raises(RefexpError, match="name 2 images so"):
        run(made.config(store, "stage=ablate"), tmp_path / "there")


def test_an_incomplete_store_is_not_exported(made, store, tmp_path, capsys):
    held = Store(str(store))
    settings = {key: held.shards.settings_of(place.made_by) for key, place in held.shards.places.items()}
    for key in [key for key, about in settings.items() if about["kind"] == "proposals"][:2]:
        held.shards.drop(key, held.shards.places[key])
    words = [*made.folder.overrides(), f"dataset.images={made.images}"]
    assert refexp("store", "--dir", store, "export", tmp_path / "out", *words) == 1
    assert "2 of 4 targets are not in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
