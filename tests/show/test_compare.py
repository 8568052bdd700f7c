"""Two runs on the same targets: what the second won and lost against the first."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from test_page import part, run_of, splits

from refexp.command.group import refexp
from refexp.errors import RefexpError
from refexp.folders.run_folder import RunFolder
from refexp.show.compare import compare_runs, write_tables
from refexp.show.page.comparison import CHANGES, write_comparison
from refexp.types import Detections


def better(data, found: Detections) -> Detections:
    """The first image's first instance gets its own class, and the second image's last one is no longer found."""
    labels = found.labels.clone()
    if found.image_id == 1:
        labels[0] = 1 - labels[0]
    found = Detections(found.image_id, labels, found.scores, found.masks, found.classes)
    return found.pick([0, len(found) - 1]) if found.image_id == 2 else found


@pytest.fixture
def two(tmp_path) -> tuple[RunFolder, RunFolder]:
    data = splits()
    return run_of(tmp_path / "a", data), run_of(tmp_path / "b", data, change=better)


def test_what_was_won_and_lost(two, tmp_path):
    comparison = compare_runs(*two)
    images = comparison.images.set_index("image")
    assert images[["won", "lost"]].loc[["1", "2", "3", "4"]].to_numpy().tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert images.index.tolist()[0] == "2" and images.index.tolist()[-1] == "1"
    assert images.loc["2", "difference"] < 0 < images.loc["1", "difference"]
    nap = [run.record.metrics.per_class["segm"]["nAP"] for run in two]
    for row in comparison.classes.to_dict("records"):
        assert row["difference"] == pytest.approx(nap[1][row["class"]] - nap[0][row["class"]])
        assert row["low"] <= row["gain"] <= row["high"]
    assert comparison.classes["won"].sum() == comparison.classes["lost"].sum() == 1
    assert "1 instance won, 1 lost" in str(comparison)
    write_tables(comparison, tmp_path / "out")
    assert (tmp_path / "out/images.csv").read_text().splitlines()[1].startswith("2,2.png,")


def test_the_page_has_both_runs(two, tmp_path):
    page = write_comparison(compare_runs(*two), tmp_path / "out", limit=10)
    lost, won = (part(page.parent / f"report/layers/{n}.js") for n in (0, 1))  # the others did not change
    assert not (page.parent / "report/layers/2.js").exists()
    names = list(CHANGES)
    for layers, change, counts in ((lost, "lost", (2, 1)), (won, "won", (2, 2))):
        assert change in [names[item["j"] - 9] for item in layers["truth"]]
        assert tuple(sum(item["r"] == run for item in layers["found"]) for run in (0, 1)) == counts


def test_other_targets_do_not_compare(two, tmp_path):
    with pytest.raises(RefexpError, match="different images"):
        compare_runs(two[0], run_of(tmp_path / "c", splits(images=5)))
    with pytest.raises(RefexpError, match="different classes"):
        compare_runs(two[0], run_of(tmp_path / "c", splits(names=("bug", "leaf"))))
    (two[1].path / "matches.npz").unlink()
    result = CliRunner().invoke(refexp, ["compare", str(two[0].path), str(two[1].path)])
    assert isinstance(result.exception, RefexpError) and "run it again" in str(result.exception)
