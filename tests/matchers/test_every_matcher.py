"""Properties of every matcher in conf/matcher; a new one is tested, too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made import NAMES, bank_of, changed, made_bank, made_proposals, matcher, picked, scores_of

from refexp.matchers.base import SimilarityMatcher
from refexp.method import contract
from refexp.method.contract import check_matched

CLOSE = 2e-5

DEPENDS_ON_COPIES = {
    "instance_mean_top": "a copy takes one of the k places",
    "knn": "a copy takes one of the k places",
    "shuffled": "a permutation of the references decides",
}
"""The matchers that a second copy of every reference changes, with the reason.

The mean-like ones stay the same, because each reference counts twice in numerator and denominator. The maximum-like
ones stay the same, because a copy is never better than its original.
"""
SIMILAR = [name for name in NAMES if isinstance(matcher(name), SimilarityMatcher)]


def test_all_but_the_control_are_similarities():
    assert set(NAMES) - set(SIMILAR) == {"shuffled"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("shots", "classes", "proposals"), [(3, 3, 6), (1, 3, 6), (3, 1, 6), (1, 1, 1), (2, 3, 0)])
def test_scores_are_numbers_from_0_to_1(name, shots, classes, proposals):
    bank, given = made_bank(shots, classes), made_proposals(proposals)
    contract.forget()
    found = check_matched(matcher(name), matcher(name).match(given, bank), given, bank)
    assert found.index.tolist() == sorted(found.index.tolist())
    if proposals == 0:
        assert len(found) == 0
    elif name != "multi_class":
        assert found.index.tolist() == list(range(proposals))
    assert found.scores.isfinite().all() and (found.scores >= 0).all() and (found.scores <= 1 + 1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_classes_are_recognized(name):
    if name == "shuffled":
        pytest.skip("it is the control")
    bank = made_bank()
    given = made_proposals(40)
    found = scores_of(matcher(name).match(given, bank))
    pure = [i for i, feature in enumerate(given.features) if feature[:2].abs().max() > 0.9]
    assert len(pure) > 10
    for i in pure:
        best = max((score, label) for (index, label), score in found.items() if index == i)
        assert best[1] == int(given.features[i, 1] > given.features[i, 0])


@pytest.mark.parametrize("name", SIMILAR)
@pytest.mark.parametrize("calibration", [None, "zscore", "temperature"])
def test_the_order_of_proposals_and_references_does_not_matter(name, calibration):
    bank, given = made_bank(), made_proposals()
    expected = matcher(name, calibration=calibration).match(given, bank)
    order = [4, 0, 5, 2, 1, 3]
    moved = matcher(name, calibration=calibration).match(picked(given, order), bank)
    assert scores_of(replace(moved, index=torch.tensor(order)[moved.index])) == pytest.approx(
        scores_of(expected), CLOSE
    )
    mixed = matcher(name, calibration=calibration).match(given, changed(bank, [[2, 0, 1], [1, 0, 2], [2, 1, 0]]))
    assert scores_of(mixed) == pytest.approx(scores_of(expected), abs=CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_the_references_change_nothing(name):
    if name in DEPENDS_ON_COPIES:
        pytest.skip(DEPENDS_ON_COPIES[name])
    settings = {"kappa": 20.0} if name == "density" else {}  # a copy is the best neighbor when its original is left out
    bank, given = made_bank(), made_proposals()
    twice = changed(bank, [[0, 1, 2, 0, 1, 2]] * 3)
    expected = scores_of(matcher(name, **settings).match(given, bank))
    assert scores_of(matcher(name, **settings).match(given, twice)) == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize("name", SIMILAR)
def test_a_far_away_class_raises_no_score_of_another(name):
    bank, given = made_bank(), made_proposals()
    far = [replace(p, tokens=-p.tokens) for p in bank.known_patches[0]]
    more = bank_of([*bank.known_patches, far])
    before, after = (matcher(name).similarity(given, b) for b in (bank, more))
    assert (after[:, :3] <= before + CLOSE).all()


@pytest.mark.parametrize("name", SIMILAR)
def test_gamma_multiplies_by_a_power_of_the_quality(name):
    bank, given = made_bank(), made_proposals()
    plain = matcher(name).match(given, bank)
    powered = matcher(name, gamma=2.0).match(given, bank)
    torch.testing.assert_close(powered.scores, plain.scores * given.quality[plain.index] ** 2)
    assert torch.equal(powered.labels, plain.labels)


@pytest.mark.parametrize("name", SIMILAR)
def test_a_second_bank_is_not_the_first(name):
    """Whatever a matcher keeps between images belongs to one bank."""
    given, used = made_proposals(), matcher(name, calibration="zscore")
    used.match(given, made_bank(seed=5))
    expected = matcher(name, calibration="zscore").match(given, made_bank())
    assert scores_of(used.match(given, made_bank())) == scores_of(expected)


@pytest.mark.parametrize("name", SIMILAR)
def test_only_what_is_declared_is_used(name):
    bank, given, one = made_bank(), made_proposals(), matcher(name)
    bank = bank if one.needs_patches else replace(bank, patches=None)
    given = given if one.needs_tokens else replace(given, tokens=None)
    assert len(one.match(given, bank))
