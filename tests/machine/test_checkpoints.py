"""Fetching weights: checked before they are put in place."""

from __future__ import annotations

import hashlib

import pytest
from runs import refexp

from refexp.errors import RefexpError
from refexp.machine import checkpoints
from refexp.machine.checkpoints import CHECKPOINTS, Checkpoint, describe


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A checkpoint "published" in a local folder."""
    content = b"weights" * 1000
    (tmp_path / "site").mkdir()
    (tmp_path / "site/net.pt").write_bytes(content)
    checkpoint = Checkpoint((tmp_path / "site/net.pt").as_uri(), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(CHECKPOINTS, "net", checkpoint)
    return checkpoint


def test_fetch_and_find(published, tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    with pytest.raises(RefexpError, match=r"net\.pt .*refexp weights net --dir"):
        checkpoints.locate("net", folder)
    assert refexp("weights", "net", "--dir", str(folder)) == 0
    assert checkpoints.locate("net", folder) == folder / "net.pt"
    assert describe("net", folder / "net.pt").origin == "official net.pt"
    assert refexp("weights", "net", "--dir", str(folder)) == 0
    assert "already exists" in capsys.readouterr().out


def test_a_damaged_download_is_not_kept(published, tmp_path, capsys):
    (tmp_path / "site/net.pt").write_bytes(b"other")
    assert refexp("weights", "net", "--dir", str(tmp_path / "checkpoints")) == 1
    error = capsys.readouterr().err
    assert "is damaged: its SHA256 sum is not" in error and "It was deleted" in error
    assert not list((tmp_path / "checkpoints").iterdir())


def test_unknown_name_and_listing(tmp_path, capsys):
    assert refexp("weights", "sam2_hiera_xl") == 1
    assert "Did you mean 'sam2_hiera_l'" in capsys.readouterr().err
    assert refexp("weights", "--dir", str(tmp_path)) == 0
    listing = capsys.readouterr().out
    assert "dinov2_vitg14_reg4_pretrain.pth" in listing
    assert len(listing.splitlines()) == len(CHECKPOINTS) == 16


def test_every_sum_is_one():
    assert all(len(c.sha256) == 64 for c in CHECKPOINTS.values())
    assert len({c.sha256 for c in CHECKPOINTS.values()}) == len(CHECKPOINTS)
