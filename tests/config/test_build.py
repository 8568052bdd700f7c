"""Components from config nodes: mistakes are named by key, and an outside component needs nothing but itself."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import pytest
from hydra.core.global_hydra import GlobalHydra
from pydantic import Field
from runs import run

from refexp.config.building import build
from refexp.config.composing import compose_config, conf_folder, quoted
from refexp.errors import RefexpError


class Thing:
    def __init__(self, size: Annotated[int, Field(ge=2)], mode: Literal["fast", "exact"] = "exact") -> None:
        if size == 13:
            raise ValueError("13 brings bad luck.")
        self.size, self.mode = size, mode


def test_builds():
    thing = build({"_target_": f"{__name__}.Thing", "size": 3, "mode": "fast"}, "thing")
    assert (thing.size, thing.mode) == (3, "fast")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"size": 1}, r"thing\.size=1: input should be greater than or equal to 2"),
        ({"size": "big"}, r"thing\.size='big': input should be a valid integer"),
        ({"size": 3, "mode": "slow"}, r"thing\.mode='slow': input should be 'fast' or 'exact'"),
        ({"size": 3, "mod": "fast"}, r"thing\.mod: Thing has no such setting\. Did you mean 'mode'"),
        ({}, r"thing\.size must be given"),
        ({"size": 13}, r"thing: 13 brings bad luck"),
    ],
)
def test_mistakes_are_named(node, message):
    with pytest.raises(RefexpError, match=message):
        build(node, "thing", Thing)


def test_unknown_target():
    with pytest.raises(RefexpError, match=r"thing\._target_: cannot import 'no\.such\.Thing'"):
        build({"_target_": "no.such.Thing"}, "thing")


OUTSIDE = '''
"""A matcher that somebody else wrote."""
import torch
from refexp.types import Candidates

class FirstClass:
    """Everything is the first class, with a score of its own choosing."""
    def __init__(self, score: float = 0.5):
        self.score = score
    def match(self, proposals, bank):
        n = len(proposals)
        return Candidates(torch.arange(n), torch.zeros(n, dtype=torch.int64), torch.full((n,), self.score))
'''


def test_a_component_from_outside_is_one_file_and_one_target(folder, configure, tmp_path, monkeypatch):
    (tmp_path / "outside_matcher.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    override = "matcher={_target_:outside_matcher.FirstClass,score:0.25}"
    metrics = run(configure(*folder.overrides(), "~matcher", f"+{override}", "vis.limit=0"), tmp_path / "out")
    assert metrics["segm/nAP50/ladybird"] > 0
    assert metrics["segm/nAP50/leaf"] == 0
    sys.modules.pop("outside_matcher")


@pytest.mark.parametrize(
    ("argument", "multirun", "expected"),
    [
        ("shots=1,10", True, "shots='1','10'"),
        ("shots=-1", False, "shots='-1'"),
        ("shots= 1, 5", True, "shots='1','5'"),
        ("shots=[5]", False, "shots='5'"),
        ("postprocess=[soft_merge,clean_masks]", False, "postprocess=[soft_merge,clean_masks]"),
        ("matcher=knn,2,true", True, "matcher=knn,'2','true'"),
        ("matcher={_target_:a.B,k:1}", False, "matcher={_target_:a.B,k:1}"),
        ("images=2024", False, "images='2024'"),
        ("images=a, b", False, "images='a, b'"),
        ("images=a,b", True, "images=a,b"),
        ("images='a b'", False, "images='a b'"),
        ("++dataset.images=it's [1]", True, r"++dataset.images='it\'s [1]'"),
        ("references=null", False, "references=null"),
        ("hydra.run.dir=out/${now:%Y}", False, "hydra.run.dir=out/${now:%Y}"),
        ("store.references=all", False, "store.references=all"),
    ],
)
def test_what_hydra_would_misread_is_quoted(argument, multirun, expected):
    assert quoted(argument, multirun) == expected


def test_overrides_are_those_of_the_command_line():
    settings = compose_config(["encoder=dinov2_vitl14", "proposer=sam2_hiera_t", "shots=3", "weights=random"])
    assert settings["encoder"]["arch"] == "vitl14" and settings["proposer"]["model"] == "sam2_hiera_t"
    assert settings["shots"]["n"] == 3
    assert (conf_folder() / "config.yaml").is_file()


def test_hydra_is_left_as_it_was():
    state = object()
    GlobalHydra.instance().hydra = state
    try:
        compose_config(["seed=1"])
        assert GlobalHydra.instance().hydra is state
        with pytest.raises(RefexpError):
            compose_config(["sede=1"])
        assert GlobalHydra.instance().hydra is state
    finally:
        GlobalHydra.instance().clear()
