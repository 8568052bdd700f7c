"""What holds for every option of conf/postprocess, whatever its steps are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from conftest import ROOT
from scenes import CLASSES, scene

from refexp.config.components import build_steps
from refexp.config.composing import compose_config, resolve
from refexp.config.validating import try_component
from refexp.masks import areas
from refexp.method import contract
from refexp.types import Candidates, Proposals

OPTIONS = sorted(path.stem for path in (ROOT / "conf/postprocess").glob("*.yaml"))
Found = dict[tuple[int, int], tuple[float, bytes]]


@cache
def steps_of(option: str) -> list:
    return list(build_steps(resolve(compose_config([f"postprocess={option}"]))).values())


def apply(steps, candidates: Candidates, proposals: Proposals) -> tuple[Candidates, Proposals]:
    for step in steps:
        contract.forget()
        candidates, proposals = contract.check_kept(step, step(candidates, proposals), candidates, proposals)
    return candidates, proposals


def read(candidates: Candidates, proposals: Proposals, names=lambda row: row) -> Found:
    """By proposal and class: the score and the mask."""
    rows = zip(candidates.index.tolist(), candidates.labels.tolist(), candidates.scores.tolist(), strict=True)
    return {(names(row), label): (score, proposals.masks[row]["counts"]) for row, label, score in rows}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_says_what_it_does(option):
    assert (ROOT / f"conf/postprocess/{option}.yaml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("option", OPTIONS)
def test_the_order_of_the_proposals_does_not_matter(option, seed):
    candidates, proposals, _ = scene(seed)
    order = np.random.default_rng(seed).permutation(len(proposals)).tolist()
    other = replace(
        proposals,
        quality=proposals.quality[order],
        boxes_lr=proposals.boxes_lr[order],
        features=proposals.features[order],
        masks=[proposals.masks[i] for i in order],
    )
    moved = Candidates(torch.arange(len(order)), candidates.labels[order], candidates.scores[order])
    expected = read(*apply(steps_of(option), candidates, proposals))
    found = read(*apply(steps_of(option), moved, other), names=order.__getitem__)
    assert found.keys() == expected.keys()
    for key, (score, mask) in found.items():
        assert mask == expected[key][1]
        assert score == pytest.approx(expected[key][0], abs=1e-6)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("option", OPTIONS)
def test_scores_stay_probabilities_and_never_rise(option, backwards):
    steps = steps_of(option)[:: -1 if backwards else 1]
    for seed in range(3):
        candidates, proposals, _ = scene(seed, count=40)
        for step in steps:
            before = read(candidates, proposals)
            candidates, proposals = apply([step], candidates, proposals)
            assert candidates.scores.isfinite().all()
            assert ((candidates.scores >= 0) & (candidates.scores <= 1)).all()
            assert all(score <= before[key][0] for key, (score, _) in read(candidates, proposals).items())
        assert len(candidates) and areas([proposals.masks[i] for i in candidates.index]).all()


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("option", OPTIONS)
def test_few_candidates(option, count, backwards):
    """None, one, and both also where the image has no other proposals."""
    candidates, proposals, _ = scene()
    few = candidates.pick(torch.arange(count))
    steps = steps_of(option)[:: -1 if backwards else 1]
    lonely = replace(
        proposals,
        quality=proposals.quality[:count],
        boxes_lr=proposals.boxes_lr[:count],
        features=proposals.features[:count],
        masks=proposals.masks[:count],
    )
    for offered in (proposals, lonely):
        found, _ = apply(steps, few, offered)
        assert torch.equal(found.index, few.index)
        assert torch.equal(found.scores, few.scores)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_proposal_may_have_several_classes(option):
    candidates, proposals, _ = scene()
    again = replace(candidates, labels=(candidates.labels + 1) % CLASSES, scores=candidates.scores / 2)
    both = Candidates(*(torch.cat([getattr(c, n) for c in (candidates, again)]) for n in ("index", "labels", "scores")))
    assert len(apply(steps_of(option), both, proposals)[0])


@pytest.mark.parametrize("option", ["clean_masks", "one_class"])
def test_options_pass_validation(option):
    lines = try_component(compose_config([f"postprocess={option}"]))
    assert all(line.ok for line in lines), lines


def test_predicting_gives_each_object_one_class():
    predict = ["task=predict", "images=photos", "references=refs"]
    assert list(compose_config(predict).postprocess)[-1] == "one_class"
    assert list(compose_config([*predict, "postprocess=nms"]).postprocess) == ["nms", "topk"]
    assert "one_class" not in compose_config([]).postprocess
