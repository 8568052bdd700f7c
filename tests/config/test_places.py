"""Where things are kept: environment variables say it for every command, from wherever it starts."""

from __future__ import annotations

import pytest
from runs import refexp

from refexp.config.composing import compose_config
from refexp.machine.checkpoints import CHECKPOINTS

KEYS = {"REFEXP_STORE": "store", "REFEXP_DATA": "data", "REFEXP_CHECKPOINTS": "checkpoints"}


@pytest.fixture
def places(tmp_path, monkeypatch):
    for variable, name in KEYS.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    return tmp_path


def test_runs_use_them(places):
    config = compose_config(["encoder=dinov2_vits14", "dataset=coco"])
    assert config.store.dir == str(places / "store")
    assert config.dataset.images == str(places / "data/coco/val2017")
    assert config.encoder.checkpoints_dir == str(places / "checkpoints")


def test_without_them_everything_lies_where_one_stands():
    config = compose_config([])
    assert (config.store.dir, config.data_root, config.checkpoints.dir) == ("store", "data", "checkpoints")


def test_what_is_given_comes_first(places):
    assert compose_config(["store.dir=mine"]).store.dir == "mine"


def test_commands_use_them(places, capsys):
    (places / "store").mkdir()
    assert refexp("store", "ls") == 0
    assert f"in {places / 'store'}" in capsys.readouterr().out
    (places / "checkpoints").mkdir()
    (places / "checkpoints" / CHECKPOINTS["sam2_hiera_t"].file).touch()
    assert refexp("weights") == 0
    assert "sam2_hiera_t       present" in capsys.readouterr().out
    assert refexp("data", "check", "coco") == 1
    assert str(places / "data/coco") in capsys.readouterr().out
