"""Jobs that are searched in one pass leave the same folders as jobs that run alone."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from refexp.config.composing import resolve
from refexp.data.custom import CustomDataset
from refexp.errors import RankFailed, RefexpError
from refexp.experiment import run as experiment_run
from refexp.experiment import search
from refexp.experiment.joint import companions, together
from refexp.experiment.run import run
from refexp.folders.record import RunRecord
from refexp.inputs.names import OF_REFERENCE
from refexp.matchers.prototype import PrototypeMatcher
from refexp.store.shards import Shards

NOT_RESULTS = ("stages", "peak_memory_mib")


class Sulking(PrototypeMatcher):
    """Raises for an image with a single proposal."""

    def match(self, proposals, bank):
        if len(proposals) == 1:
            raise RefexpError("no single proposals")
        return super().match(proposals, bank)


def content(folder: Path) -> dict[str, object]:
    """The results of a run, without what it took."""
    found = {name: (folder / name).read_bytes() for name in ("detections.json", "references.json", "per_image.csv")}
    for name in ("curves.npz", "matches.npz"):
        with np.load(folder / name) as arrays:
            found |= {f"{name}/{key}": arrays[key].tobytes() for key in arrays.files}
    record = json.loads((folder / "metrics.json").read_text())
    return found | {name: value for name, value in record.items() if name not in NOT_RESULTS}


@pytest.fixture
def configurations(folder, configure):
    """`configurations([...], [...])` -> one configuration for each list of overrides, with the same store."""

    def make(*lists: list[str]):
        return [configure(*folder.overrides(), *overrides) for overrides in lists]

    return make


def run_together(configs, root: Path) -> list[Path | str]:
    """Run these jobs one after another, searched together. Returns the folder of each, or its error."""
    folders = [root / str(number) for number in range(len(configs))]
    ended: list[Path | str] = []
    with together({path: resolve(config) for path, config in zip(folders, configs, strict=True)}):
        for path, config in zip(folders, configs, strict=True):
            try:
                run(config, path)
                ended.append(path)
            except RefexpError as error:
                ended.append(str(error))
    return ended


VARIANTS = (
    [],
    ["seed=1"],
    ["shots=3", "matcher=instance_max", "matcher.gamma=1"],
    ["matcher=background"],
    ["matcher=cyclic"],
    ["postprocess=clean_masks", "evaluation.diagnostics=true", "both_protocols=true"],
    ["postprocess=nms", "evaluation.engine=pycocotools"],
    ["dataset.classes=[leaf]"],  # reads other annotations, so it is searched alone
)


def test_every_variant_has_the_bytes_of_a_run_alone(configurations, tmp_path, caplog):
    configs = configurations(*VARIANTS)
    for number, config in enumerate(configs):
        run(config, tmp_path / "alone" / str(number))
    with caplog.at_level(logging.INFO):
        ended = run_together(configs, tmp_path / "together")
    assert "7 jobs read the same entries: one pass for all" in caplog.text
    for number in range(len(configs)):
        alone, joint = content(tmp_path / "alone" / str(number)), content(ended[number])
        assert alone == joint, VARIANTS[number]


def test_names_of_references_in_another_spelling_are_told_by_each_job_and_read_once(
    folder, configurations, tmp_path, monkeypatch
):
    for image in folder.references["images"]:
        image["file_name"] = image["file_name"].upper()
    folder.save()
    read = []
    load = CustomDataset.load
    monkeypatch.setattr(CustomDataset, "load", lambda self: read.append(1) or load(self))
    ended = run_together(configurations([], ["postprocess=nms"], ["seed=1"]), tmp_path / "together")
    assert len(read) == 1
    told = [RunRecord.read(path).repairs for path in ended]
    for repairs, path in zip(told, ended, strict=True):
        drawn = {image["file_name"] for image in json.loads((path / "references.json").read_text())["images"]}
        count, first = repairs[OF_REFERENCE]
        assert count == len(drawn) == 2 and first.startswith(f"{folder.root / 'references.json'}, REFERENCES_")
    assert told[0] == told[1]


def test_an_entry_is_read_once_for_all(configurations, tmp_path, monkeypatch):
    configs = configurations(["seed=0"], ["seed=1"], ["seed=2"], ["shots=2"])
    run(configs[0], tmp_path / "first")
    reads: Counter[str] = Counter()
    read = Shards.read
    monkeypatch.setattr(Shards, "read", lambda self, key: reads.update([key]) or read(self, key))
    run_together(configs, tmp_path / "together")
    shards = Shards(tmp_path / "store")
    shards.refresh()
    kinds = {key: shards.settings_of(place.made_by)["kind"] for key, place in shards.places.items()}
    assert [reads[key] for key, kind in kinds.items() if kind == "proposals"] == [1, 1, 1, 1]


def test_proposals_of_the_oracle_are_those_of_the_jobs_own_classes(configurations, tmp_path):
    """A job that drops a class has other ground truth, and so other proposals."""
    configs = configurations(["shots.missing=drop"], ["shots.n=10", "shots.missing=drop"])
    for number, config in enumerate(configs):
        run(config, tmp_path / "alone" / str(number))
    ended = run_together(configs, tmp_path / "together")
    results = [content(path) for path in ended]
    assert results == [content(tmp_path / "alone" / str(number)) for number in range(len(configs))]
    assert len(results[0]["classes"]) > len(results[1]["classes"])


def test_patches_of_a_reference_are_made_once_for_all(configurations, tmp_path):
    configs = configurations(["matcher=background"], ["matcher=negative"], ["matcher=background", "matcher.gamma=1"])
    records = [json.loads((path / "metrics.json").read_text()) for path in run_together(configs, tmp_path / "jobs")]
    made = [record["stages"].get("reference patches", {"items": 0})["items"] for record in records]
    assert made == [sum(records[0]["references"].values()), 0, 0]


def test_a_job_that_fails_does_not_hurt_the_others(folder, configurations, tmp_path):
    third = folder.targets["images"][2]["id"]
    dropped = next(one for one in folder.targets["annotations"] if one["image_id"] == third)
    folder.targets["annotations"].remove(dropped)
    folder.save()
    sulking = f"matcher._target_={__name__}.Sulking"
    configs = configurations([sulking], [], ["shots=30"], [sulking, "seed=1"], ["seed=1"])
    ended = run_together(configs, tmp_path / "together")
    assert [isinstance(one, Path) for one in ended] == [False, True, False, False, True]
    assert ended[0] == ended[3] == "no single proposals" and "too few valid references" in ended[2]
    run(configs[1], tmp_path / "alone")
    assert content(tmp_path / "alone") == content(ended[1])


def test_what_is_logged_appears_when_the_job_has_its_turn(folder, configurations, tmp_path, caplog):
    first = folder.references["annotations"][0]["category_id"]
    rare = [one for one in folder.references["annotations"] if one["category_id"] == first][1:]
    folder.content["references"]["annotations"] = [one for one in folder.references["annotations"] if one not in rare]
    folder.save()
    configs = configurations(["shots=3", "shots.missing=drop"], ["shots=3", "shots.missing=drop", "seed=1"])
    with caplog.at_level(logging.INFO):
        run_together(configs, tmp_path / "together")
    said = [record.message.split(",")[0].split(" in ")[0] for record in caplog.records]
    told = [line for line in said if line in ("1 classes left out", "results")]
    assert told == ["1 classes left out", "results"] * 2


def test_a_search_with_a_damaged_entry_computes_it(configurations, tmp_path, monkeypatch):
    configs = configurations(["seed=0"], ["seed=1"])
    run(configs[0], tmp_path / "first")
    original = search.spread

    def lossy(work, count, workers):
        for number, found in original(work, count, workers):
            yield number, None if number == 1 else found

    monkeypatch.setattr(search, "spread", lossy)
    ended = run_together(configs, tmp_path / "together")
    assert content(ended[0]) == content(tmp_path / "first")


def test_the_number_of_processes_changes_nothing(configure, tmp_path):
    small = ["dataset.targets=18", "dataset.references=12", "dataset.classes=[ladybird,leaf]", "shots=1"]
    config = configure(*small, "vis.report=false", "vis.limit=0")
    found = []
    for workers in (1, 2, 3):
        one = OmegaConf.merge(config, {"runtime": {"workers": workers}})
        run(one, tmp_path / str(workers))
        found.append(content(tmp_path / str(workers)))
        found[-1].pop("config")
    assert found[0] == found[1] == found[2]
    assert torch.get_num_threads() >= 1 and not companions().many


def test_all_references_are_stored_once_for_settings_that_allow_the_same(configurations, tmp_path, monkeypatch):
    everything = ["store.references=all"]
    lists = [everything, [*everything, "seed=1"], [*everything, "shots.min_side=4"], [*everything, "shots=2"]]
    calls = []
    store_candidates = experiment_run.store_candidates
    monkeypatch.setattr(
        experiment_run, "store_candidates", lambda *given: calls.append(given[1].min_side) or store_candidates(*given)
    )
    run_together(configurations(*lists), tmp_path / "together")
    assert calls == [32, 4]


def test_the_failure_of_another_rank_is_not_taken_for_the_variants_own():
    class Interrupted(PrototypeMatcher):
        def match(self, proposals, bank):
            raise RankFailed("rank 1 failed")

    with pytest.raises(RankFailed):
        search.attempt(search.Variant(None, Interrupted(), []), 1, None)


def test_an_error_that_does_not_occur_again_ends_the_run(configurations, tmp_path, monkeypatch):
    match, calls = PrototypeMatcher.match, []

    def second_fails(self, *given):
        calls.append(1)
        return 1 / 0 if len(calls) == 2 else match(self, *given)

    monkeypatch.setattr(PrototypeMatcher, "match", second_fails)
    with pytest.raises(RefexpError, match="raised an error, but not when asked again"):
        run(configurations([])[0], tmp_path / "out")
