"""What refexp wrote is never taken for photographs."""

from __future__ import annotations

import pytest

from refexp.inputs.walking import files_below


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def below(root):
    files, passed = files_below(root)
    return [file.relative_to(root).as_posix() for file in files], {kind: len(found) for kind, found in passed.items()}


RUNS = {
    "from the command line": ["config.yaml", "status.json", "references.json", ".hydra/config.yaml"],
    "that failed at once": ["status.json", "run.log", ".hydra/config.yaml"],
    "without .hydra": ["config.yaml", "status.json"],
    "from Python": ["config.yaml", "references.json"],
    "of refexp 0.1": ["config.yaml", "metrics.json"],
}


@pytest.mark.parametrize("marks", RUNS.values(), ids=RUNS)
def test_a_run_below_is_not_searched(tmp_path, marks):
    touch(tmp_path, "a.jpg", *(f"found/day 1/{name}" for name in (*marks, "masks/a.jpg/001_cat.png", "plot.png")))
    assert below(tmp_path) == (["a.jpg"], {"runs": 1})


@pytest.mark.parametrize("marks", RUNS.values(), ids=RUNS)
def test_of_a_run_among_the_photographs_only_the_results_are_passed_over(tmp_path, marks):
    results = ["masks/a.jpg/001_cat.png", "overlays/a.jpg", "report/images/1.jpg", "memory_bank.png", "wandb/x/1.png"]
    touch(tmp_path, "a.jpg", "day 2/b.jpg", "day 2/masks/b.png", *marks, *results)
    found, passed = below(tmp_path)
    assert [name for name in found if name not in marks] == ["a.jpg", "day 2/b.jpg", "day 2/masks/b.png"]
    assert passed == {"results of the run": 5}


def test_sweeps_the_store_and_plots(tmp_path):
    key = "ab" + "0" * 62
    touch(tmp_path, "sweep/sweep.json", "sweep/multirun.yaml", "sweep/0/status.json", "sweep/nAP.png")
    touch(tmp_path, f"store/ab/{key}.npz", f"store/cd/cd{key[2:]}.claim", "store/photo.jpg")
    touch(tmp_path, f"store/shards/{key[:16]}.shard", f"store/shards/{key[:16]}.index", f"store/claims/{key}.0")
    touch(tmp_path, "runs.csv", "table.md", "nAP.png", "nAP.svg", "photo.png")
    found, passed = below(tmp_path)
    assert found == ["nAP.svg", "photo.png", "runs.csv", "store/photo.jpg", "table.md"]
    assert passed == {"sweeps": 1, "stores": 1, "results of the run": 1}


def test_what_only_looks_like_it_is_searched(tmp_path):
    """Outputs of another Hydra program, photographs in folders of two letters, and folders called like results."""
    names = ["ab/1.jpg", "ab/2.npz", "hydra/.hydra/config.yaml", "hydra/1.jpg", "masks/1.jpg", "overlays/1.jpg",
             "project/config.yaml", "project/1.jpg", "server/status.json", "server/1.jpg"]  # fmt: skip
    touch(tmp_path, *names)
    assert below(tmp_path) == (sorted(name for name in names if "/." not in name), {})
