"""Calibration from left-out references, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from made import made_bank, made_proposals, matcher
from runs import run

from refexp.errors import RefexpError
from refexp.matchers.calibration import SMALLEST, Calibrator, as_proposal, leave_one_out, squash
from refexp.method.memory import build_bank


def loop(bank):
    """Cosines of each reference and the prototypes without it, [R, K], and the labels."""
    rows, labels = [], []
    for label, instances in enumerate(bank.instances):
        for row in range(len(instances)):
            prototypes = [m.mean(dim=0) for m in bank.instances]
            prototypes[label] = torch.cat([instances[:row], instances[row + 1 :]]).mean(dim=0)
            rows.append(torch.stack([F.cosine_similarity(instances[row], p, dim=0) for p in prototypes]))
            labels.append(label)
    return torch.stack(rows), torch.tensor(labels)


def test_leave_one_out_with_prototypes():
    bank = made_bank(shots=3)
    scores, labels = leave_one_out("zscore", matcher("prototype").similarity, bank)
    expected, expected_labels = loop(bank)
    torch.testing.assert_close(scores, expected)
    assert torch.equal(labels, expected_labels)


def test_zscore_and_temperature_by_hand():
    bank, given, plain = made_bank(shots=3), made_proposals(), matcher("prototype")
    scores, labels = loop(bank)
    similarity = plain.similarity(given, bank)
    z = (similarity - scores.mean(dim=0)) / scores.std(dim=0, unbiased=False)
    best = squash(z).max(dim=1)
    found = matcher("prototype", calibration="zscore").match(given, bank)
    torch.testing.assert_close(found.scores, best.values)
    assert torch.equal(found.labels, best.indices)

    calibrator = Calibrator.fit("temperature", plain.similarity, bank)
    own = torch.stack([scores[labels == label, label].mean() for label in range(3)])
    other = torch.stack([scores[labels != label, label].mean() for label in range(3)])
    middle, half = (own + other) / 2, (own - other).mean() / 2
    given = torch.stack([middle - half, middle, middle + half])
    torch.testing.assert_close(calibrator(given), torch.tensor([[0.25], [0.5], [0.75]]).expand(3, 3))


def test_temperature_with_a_class_that_its_own_references_do_not_resemble():
    """Its similarities get no scale of their own, so it does not win over every other class."""
    bank = made_bank(shots=4)
    generator = torch.Generator().manual_seed(0)
    odd = build_bank([torch.randn(4, 16, generator=generator), *bank.instances[1:]], None, bank.classes)
    calibrator = Calibrator.fit("temperature", matcher("prototype").similarity, odd)
    assert calibrator.scale[0] == calibrator.scale[1] > SMALLEST


def test_squash_keeps_the_order_of_large_values():
    values = squash(torch.tensor([-1e6, -30.0, 0, 30, 31, 1e6]))
    assert (values.diff() > 0).all() and values[0] > 0 and values[-1] < 1 and values[2] == 0.5


@pytest.mark.parametrize("kind", ["zscore", "temperature"])
def test_a_class_with_one_reference_is_named(kind):
    bank = made_bank(shots=2)
    single = build_bank([bank.instances[0][:1], *bank.instances[1:]], None, bank.classes)
    message = rf"matcher\.calibration={kind} needs at least 2 references a class; ladybird has 1\."
    with pytest.raises(RefexpError, match=message):
        matcher("prototype", calibration=kind).match(made_proposals(), single)
    copies = build_bank([bank.instances[0][[0, 0]], *bank.instances[1:]], None, bank.classes)
    with pytest.raises(RefexpError, match=message):
        matcher("prototype", calibration=kind).match(made_proposals(), copies)


def test_too_few_references_are_refused_before_anything_is_computed(configure, tmp_path):
    with pytest.raises(RefexpError, match=r"calibration=zscore needs at least 2 references a class; \w+ has 1\."):
        run(configure("shots=1", "matcher.calibration=zscore"), tmp_path / "out")
    assert not (tmp_path / "store").exists()


def test_temperature_needs_two_classes():
    with pytest.raises(RefexpError, match="needs at least 2 classes"):
        matcher("prototype", calibration="temperature").match(made_proposals(), made_bank(classes=1))


def test_equal_references_do_not_divide_by_zero():
    """Two references of one class have the same similarity to each other, so its deviation is 0."""
    bank = made_bank(shots=2, classes=1)
    calibrator = Calibrator.fit("zscore", matcher("prototype").similarity, bank)
    assert calibrator.scale.tolist() == pytest.approx([SMALLEST])


def test_a_reference_as_a_proposal():
    bank = made_bank()
    one = as_proposal(bank, 1, 2)
    assert len(one) == 1 and one.size == (8, 8) and torch.equal(one.known_tokens, bank.known_patches[1][2].tokens)
    torch.testing.assert_close(one.features[0], F.normalize(bank.instances[1][2], dim=0))
    # Compared with itself, patch by patch, it is as similar as can be.
    torch.testing.assert_close(matcher("cyclic").similarity(one, bank)[0, 1], torch.ones(()))
