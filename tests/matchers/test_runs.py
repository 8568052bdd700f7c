"""Matchers in runs and from Python: what they declare is there, and the store is the same for all of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made import NAMES
from method.test_contract import Means
from runs import run

import refexp
from refexp.config.composing import compose_config
from refexp.config.validating import try_component
from refexp.data.coco import annotation_of, make_split
from refexp.errors import RefexpError
from refexp.folders.run_folder import RunFolder
from refexp.method.memory import patches_of, view_reference
from refexp.store.entries import Store

NEEDY = ("background", "cyclic")  # the references' patches; these and the targets' tokens


def test_runs_from_the_store(folder, configure, tmp_path):
    common = [*folder.overrides(), "vis.limit=0", "vis.report=false"]
    run(configure(*common, "stage=extract", "matcher=cyclic"), tmp_path / "extract")
    stored = Store(str(tmp_path / "store")).shards.places
    for name in NEEDY:
        metrics = run(configure(*common, "stage=ablate", f"matcher={name}"), tmp_path / name)
        assert metrics["segm/nAP50"] > 0.5
    assert stored and Store(str(tmp_path / "store")).shards.places == stored


def test_the_tokens_of_targets_are_computed_once_and_added_to_what_is_stored(folder, configure, tmp_path):
    common = [*folder.overrides(), "vis.limit=0", "vis.report=false"]
    run(configure(*common), tmp_path / "prototype")
    store = Store(str(tmp_path / "store"))
    before = dict(store.shards.places)
    metrics = [run(configure(*common, "matcher=cyclic"), tmp_path / name) for name in ("first", "second")]
    store.refresh()
    added = [store.load(key) for key in store.shards.places.keys() - before.keys()]
    assert len(added) == 4 and all(entry["tokens"].dtype == np.float16 for entry in added)
    assert before.items() <= store.shards.places.items() and metrics[0] == metrics[1]
    stages = [RunFolder(tmp_path / name).record.stages for name in ("first", "second")]
    assert stages[0]["target tokens"]["items"] == 4 and "target tokens" not in stages[1]
    assert all("extract" not in of_run for of_run in stages)


@pytest.mark.parametrize("name", NEEDY)
def test_a_broken_image_is_named_before_anything_is_encoded(folder, configure, tmp_path, name):
    """The store has all prototypes and proposals of these images, but not what these matchers need."""
    common = [*folder.overrides(), "vis.limit=0", "vis.report=false"]
    run(configure(*common), tmp_path / "first")
    split = "references" if name == "background" else "targets"
    for file in folder.images.glob(f"{split}_*.png"):
        file.write_bytes(b"no image")
    message = rf"{split}\.json: \d+ of \d+ images cannot be read\. {split}_.*the matcher needs .* with every stage"
    with pytest.raises(RefexpError, match=message):
        run(configure(*common, "stage=ablate", f"matcher={name}"), tmp_path / "second")


def scene(x: int) -> tuple[np.ndarray, np.ndarray]:
    """A red square on a green ground, and its mask."""
    image, mask = np.full((120, 160, 3), (60, 140, 60), dtype=np.uint8), np.zeros((120, 160), dtype=bool)
    mask[40:90, x : x + 50] = True
    image[mask] = (210, 40, 40)
    return image, mask


@pytest.mark.parametrize("name", NAMES)
def test_the_python_api_has_them_all(name):
    model = refexp.load(f"matcher={name}", "encoder.input_size=256", "proposer.max_proposals=20")
    model.remember({"square": [scene(30), scene(60)], "ground": [(i, ~m) for i, m in (scene(20), scene(80))]})
    best = model.predict(scene(70)[0]).pick([0, 1])
    assert set(best.labels.tolist()) <= {0, 1} and best.scores[0] > 0


@pytest.mark.parametrize("name", NEEDY)
def test_validate_tries_them(name):
    overrides = [f"matcher={name}", "matcher.calibration=zscore", "encoder.input_size=256"]
    lines = {line.component: line for line in try_component(compose_config(overrides))}
    assert lines["matcher"].ok, lines["matcher"]


def test_background_leaves_out_other_instances_of_the_class():
    masks = np.zeros((3, 64, 64), dtype=bool)
    masks[0, 8:24, 8:24] = masks[1, 40:58, 8:24] = masks[2, 8:24, 40:56] = True
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 64}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [annotation_of(i, 1, c, m) for i, (c, m) in enumerate(zip((1, 1, 2), masks, strict=True))],
    }
    rgb = np.zeros((64, 64, 3), dtype=np.uint8)
    split = make_split(content, "made", ("cat", "dog"), lambda _: rgb, lambda _: "")
    reference, encoder = split.reference(content["annotations"][0]), Means()
    view = view_reference(split, reference, encoder, torch.device("cpu"))
    outside = patches_of(view, split, reference, encoder).outside.view(16, 16)
    expected = torch.ones(16, 16, dtype=torch.bool)
    expected[2:6, 2:6] = expected[10:15, 2:6] = False  # rows 56 to 58 only touch the last patch; the dog is background
    assert torch.equal(outside, expected)

    encoder.reference_context = 0.5  # a crop of x, y from 4 to 28: only the cat itself
    view = view_reference(split, reference, encoder, torch.device("cpu"))
    cropped = patches_of(view, split, reference, encoder).outside.view(16, 16)
    assert cropped[0].all() and not cropped[4:11, 4:11].any()
