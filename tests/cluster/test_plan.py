"""A dry run: what the store holds, what is new, and what that takes by the rates of earlier runs."""

from __future__ import annotations

import json
import logging
import os

import pytest
from runs import refexp

from refexp.cluster.plan import Rates, Work, duration, each_said_once, plan, rates_of, sums

MADE_BY = {"encoder": {"arch": "s"}, "proposer": {"points": 32}, "device": "cpu"}


@pytest.fixture
def runs(tmp_path):
    """`runs("a", arch="s", extract=(6, 2), ...)` -> a finished run of two images; its stages: seconds and items."""

    def add(name: str, arch: str = "s", images: int = 2, **stages: tuple[float, int]):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        config = {"encoder": {"arch": arch, "checkpoints_dir": name}, "proposer": {"points": 32}}
        record = {
            "metrics": {}, "config": config, "device": "cpu", "images": images, "targets": "", "seed": 0, "shots": 1,
            "classes": [], "stages": {stage: {"seconds": s, "items": n} for stage, (s, n) in stages.items()},
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(record))
        os.utime(folder / "metrics.json", (len(list(folder.parent.iterdir())),) * 2)  # each is newer than the last
        return tmp_path / "outputs"

    return add


def test_rates_come_from_runs_with_the_same_networks(runs):
    runs("other", arch="l", extract=(1000, 1), detect=(1000, 1))
    runs("cold", extract=(6, 2), remember=(4, 8), detect=(100, 2), load=(1, 0))
    more = {"detect for other jobs": (90, 0), "read annotations": (7, 1)}
    folder = runs("warm", detect=(1, 2), evaluate=(3, 2), other=(2, 0), page=(50, 0), **more)
    assert rates_of([folder], MADE_BY) == Rates(once=7 + 2 + 2 * 50, image=2, new_image=3, new_reference=0.5)
    assert rates_of([folder], MADE_BY | {"device": "cuda:0"}) is None
    runs("compiled", detect=(30, 2), **{"compile loops": (15, 1)})
    assert rates_of([folder], MADE_BY) == Rates(once=109, image=2, new_image=3, new_reference=0.5)
    assert Rates(7, 2, 3, 0.5).seconds(10, 2, 4) == 20 + 6 + 2
    assert Rates(7, 2, None, 0.5).seconds(10, 0, 4) == 22
    assert Rates(7, 2, None, 0.5).seconds(10, 1, 4) is None


def test_a_run_that_compiled_tells_how_long_detection_takes(runs):
    folder = runs("first", detect=(1, 2), evaluate=(9, 2), **{"compile loops": (15, 1)})
    assert rates_of([folder], MADE_BY) == Rates(once=0, image=0.5, new_image=None, new_reference=None)


def test_what_several_jobs_need_is_new_once(runs):
    folder = runs("warm", extract=(2, 2), remember=(1, 1), detect=(2, 2), **{"read annotations": (5, 1)})
    work = Work(["seed=0"], {"stored": 2**20, "lacking": None}, {"reference": None}, MADE_BY)
    first, second = plan([work, work], [folder])
    assert (first.new_images, first.new_references, first.seconds, first.bytes) == (1, 1, 9, 2**20)
    assert (second.new_images, second.new_references, second.seconds, second.bytes) == (0, 0, 2, 0)
    known, time = sums([first, second], [folder])
    assert known == "2 jobs on 2 images: 1 in the store, 1 new, about 1.0 MiB"
    assert time == f"about 11 s one after another on cpu, by earlier runs in {folder}"


def test_what_cannot_be_known_is_said(tmp_path):
    lines = sums(plan([Work([], {"lacking": None}, {}, MADE_BY)], [tmp_path]), [tmp_path])
    assert lines[0].endswith("1 new, of unknown size: the store has none like them")
    assert lines[1].startswith("time unknown: no earlier run in ") and lines[1].endswith("input.limit=50")


@pytest.mark.parametrize(("seconds", "text"), [(None, "unknown"), (44.6, "45 s"), (600, "10 min"), (12600, "3.5 h")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_what_is_true_of_many_jobs_is_said_once(caplog):
    with each_said_once():
        for number in (1, 2, 2, 1):
            logging.getLogger("refexp.data").warning("%d classes left out", number)
    assert caplog.messages == ["1 classes left out", "2 classes left out"]
    logging.getLogger("refexp.data").warning("%d classes left out", 1)
    assert len(caplog.messages) == 3


def test_the_command_runs_nothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*folder.overrides(), "seed=0,1", "input.limit=3", "hydra/launcher=local_jobs"]
    assert refexp("sweep", "plan", *words) == 0
    printed = capsys.readouterr().out
    assert "2 jobs on 3 images: 0 in the store, 3 new, of unknown size" in printed
    assert "│ seed=1 │      3 │   0 │          2 │" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_sweep_that_would_grow(folder, command, tmp_path, monkeypatch, capsys):
    """Its completed jobs count no more, and tell how long the others take."""
    monkeypatch.chdir(tmp_path)
    out = f"hydra.sweep.dir={tmp_path / 'out'}"
    words = [*folder.overrides(), "input.limit=2", "vis.limit=0", out, f"store.dir={tmp_path / 'store'}"]
    done = command("-m", *words, "seed=0")
    assert done.returncode == 0, done.stderr
    assert refexp("sweep", "plan", *words, "seed=0,1") == 0
    printed = capsys.readouterr().out
    assert f"1 of 2 jobs are completed in {tmp_path / 'out'}" in printed
    assert "1 jobs on 2 images: 2 in the store, 0 new" in printed and "one after another on" in printed
    assert refexp("sweep", "plan", *words, "seed=0") == 0
    assert "nothing to run" in capsys.readouterr().out
