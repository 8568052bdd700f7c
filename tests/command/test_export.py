"""Detections that a run keeps compressed, or not at all, and `refexp export`, which makes them again."""

from __future__ import annotations

import gzip
import json

import pytest
from runs import refexp, run

from refexp.errors import RefexpError
from refexp.folders.run_folder import RunFolder


@pytest.fixture
def kept(folder, configure, tmp_path):
    """Runs of the same experiment by what they keep."""
    runs = {how: tmp_path / how for how in ("json", "gz", "none")}
    for how, path in runs.items():
        run(configure(*folder.overrides(), f"detections={how}", "vis.limit=0"), path)
    return runs


def test_detections_are_kept_compressed_or_made_again(kept, capsys):
    expected = (kept["json"] / "detections.json").read_bytes()
    assert gzip.decompress((kept["gz"] / "detections.json.gz").read_bytes()) == expected
    assert [len(RunFolder(kept[how]).detections) for how in ("json", "gz")] == [4, 4]

    with pytest.raises(RefexpError, match=f"{kept['none']} has kept no detections .*: refexp export {kept['none']}"):
        _ = RunFolder(kept["none"]).detections
    for how in ("none", "gz"):
        assert refexp("export", kept[how]) == 0
        assert (kept[how] / "detections.json").read_bytes() == expected
        assert not list(kept[how].glob(".again*"))
    assert refexp("show", kept["none"]) == 0 and "mask" in capsys.readouterr().out


def test_other_results_are_not_taken_for_those_of_the_run(kept, capsys):
    path = kept["none"] / "metrics.json"
    content = json.loads(path.read_text())
    content["metrics"]["segm/nAP"] = 0.123
    path.write_text(json.dumps(content))
    assert refexp("export", kept["none"]) == 1
    assert "made again, the run has other metrics" in capsys.readouterr().err
    assert not (kept["none"] / "detections.json").exists()


def test_a_damaged_archive_is_named(kept):
    path = kept["gz"] / "detections.json.gz"
    for content in (b"{}", path.read_bytes()[:-9]):
        path.write_bytes(content)
        with pytest.raises(RefexpError, match=r"detections\.json\.gz is damaged"):
            _ = RunFolder(kept["gz"]).detections
