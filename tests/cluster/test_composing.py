"""Jobs composed in short are those that Hydra composes."""

from __future__ import annotations

from collections import Counter

import pytest
from conftest import ROOT
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refexp.cluster.composing import Composer

JOBS = (
    ["seed=1", "shots='1'"],
    ["seed=2", "shots='1'"],
    ["shots='1'", "seed=3"],
    ["seed=4", "shots='1'", "matcher=knn", "dataset.classes=[a,b]"],
    ["seed=5", "shots='1'", "matcher=knn", "dataset.classes=[c]"],
    ["matcher.gamma=${seed}", "name='a b'", "vis.limit=null"],
    ["matcher.gamma=2", "name=c", "vis.limit=3"],
    ["+more=1", "seed=1"],
    ["+more=2", "seed=1"],
    ["~seed"],
    ["hydra.job.name=x", "seed=6"],
    ["hydra.job.name=y", "seed=7"],
    ["experiment=paper", "seed=8"],
    [],
)


@pytest.fixture(scope="module")
def hydra():
    """Hydra's loader, and the configuration of a multirun."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        loader = GlobalHydra.instance().hydra.config_loader
        yield loader, loader.load_configuration("config", ["weights=random"], RunMode.MULTIRUN)


def test_every_job_is_as_hydra_composes_it(hydra):
    loader, config = hydra
    compose = Composer(*hydra)
    for _ in range(2):
        for overrides in JOBS:
            expected = loader.load_sweep_config(config, list(overrides))
            assert OmegaConf.to_yaml(compose(overrides)) == OmegaConf.to_yaml(expected), overrides


def test_hydra_composes_what_differs_in_values_once(hydra, monkeypatch):
    compose, asked = Composer(*hydra), Counter()
    load = type(hydra[0]).load_sweep_config
    monkeypatch.setattr(hydra[0], "load_sweep_config", lambda *given: asked.update([1]) or load(hydra[0], *given))
    for shots in (1, 5):
        for seed in range(4):
            assert compose([f"shots='{shots}'", f"seed={seed}"]).seed == seed
    assert asked.total() == 2


def test_a_wrong_value_is_refused_as_the_first_and_as_a_later_one(hydra):
    compose = Composer(*hydra)
    compose(["seed=1"])
    with pytest.raises(Exception, match="nonsense"):
        compose(["nonsense=1"])
    with pytest.raises((OmegaConfBaseException, Exception), match="matcher"):
        compose(["matcher.gamma.deeper=1"])
