"""Each matcher against numbers worked by hand, or against a loop over single patches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made import GRID, made_bank, made_proposals, matcher

from refexp.errors import RefexpError
from refexp.masks import decode, encode, grid_shares
from refexp.matchers.density import KAPPAS, left_out_likelihood, log_normalizer
from refexp.matchers.patches import PerClass, cosine_kmeans
from refexp.method.memory import build_bank
from refexp.types import MemoryBank, Patches, Proposals


def direction(degrees: float) -> list[float]:
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0]


def cosine(degrees: float) -> float:
    return math.cos(math.radians(degrees))


def at(*degrees: float) -> Proposals:
    """One proposal for each of these directions in a plane."""
    count = len(degrees)
    masks = encode(np.ones((count, 2, 2), dtype=bool))
    return Proposals(
        torch.ones(count), torch.zeros(count, 4), torch.tensor([direction(d) for d in degrees]), masks, (2, 2)
    )


def references(*classes: list[float]) -> MemoryBank:
    """Classes of references at these directions; their lengths differ, which only the prototype may see."""
    return build_bank(torch.tensor([direction(d) for d in of_class]) * 3 for of_class in classes)


def test_instance_matchers_by_hand():
    bank, given = references([0, 60], [90]), at(20)
    both = [cosine(20), cosine(40)]
    expected = {
        "prototype": [cosine(10), cosine(70)],
        "multi_class": [cosine(10), cosine(70)],
        "instance_max": [cosine(20), cosine(70)],
        "instance_mean_top": [sum(both) / 2, cosine(70)],
        "instance_softmax": [
            sum(c * math.exp(c / 0.1) for c in both) / sum(math.exp(c / 0.1) for c in both),
            cosine(70),
        ],
    }
    for name, similarity in expected.items():
        torch.testing.assert_close(matcher(name).similarity(given, bank), torch.tensor([similarity]))
    torch.testing.assert_close(
        matcher("instance_mean_top", k=1).similarity(given, bank), matcher("instance_max").similarity(given, bank)
    )


def test_knn_by_hand():
    bank, given = references([0, 60], [90, 170]), at(50)  # cosines: class 0 at 50 and 10 degrees, class 1 at 40 and 120
    near = [cosine(10), cosine(40)]
    weights = [math.exp(c / 0.1) for c in near]
    votes = [c * w / sum(weights) for c, w in zip(near, weights, strict=True)]
    torch.testing.assert_close(matcher("knn", k=2).similarity(given, bank), torch.tensor([votes]))
    torch.testing.assert_close(matcher("knn", k=1).similarity(given, bank), torch.tensor([[cosine(10), 0]]))


def test_multi_class_by_hand():
    bank, given = references([0], [50], [89]), at(0, 180)
    found = matcher("multi_class").match(given, bank)
    assert (found.index.tolist(), found.labels.tolist()) == ([0, 0], [0, 1])  # cos 50 = 0.64, cos 89 = 0.02; 180: none
    torch.testing.assert_close(found.scores, torch.tensor([1, cosine(50)]))


def patches(foreground: list[float], background: list[float], grid: int = 2) -> Patches:
    """A reference with patches at these directions."""
    tokens = torch.tensor([direction(d) for d in [*foreground, *background]])
    inside = torch.arange(grid * grid) < len(foreground)
    return Patches(tokens * 2, inside.float(), ~inside)


def with_patches(*classes: list[Patches]) -> MemoryBank:
    instances = [torch.stack([p.tokens[p.weights > 0].mean(dim=0) for p in of_class]) for of_class in classes]
    return build_bank(instances, list(classes), ("ladybird", "leaf")[: len(classes)])


def test_background_by_hand():
    bank, given = with_patches([patches([0, 20], [80, 100])]), at(10, 70)
    fg, bg = torch.tensor([[1], [cosine(60)]]), torch.tensor([[cosine(80)], [cosine(20)]])
    margin = fg * torch.sigmoid((fg - bg) / 0.2)
    torch.testing.assert_close(matcher("background", parts=1, temperature=0.2).similarity(given, bank), margin)
    rejected = matcher("background", parts=1, mode="reject").similarity(given, bank)
    torch.testing.assert_close(rejected, torch.tensor([[1.0], [0.0]]))
    # With two clusters, the nearer one is the rival: 80 degrees.
    near = torch.tensor([[cosine(70)], [cosine(10)]])
    two = matcher("background", parts=2, temperature=0.2).similarity(given, bank)
    torch.testing.assert_close(two, fg * torch.sigmoid((fg - near) / 0.2))


def test_negative_by_hand():
    bank, given = with_patches([patches([0, 20], [80, 80]), patches([10, 10], [140, 140])]), at(10, 70)
    s_neg, s_pos = cosine(10), cosine(60)
    expected = torch.tensor([[1], [s_pos * math.exp(-(s_neg - s_pos) / 0.8)]])
    torch.testing.assert_close(matcher("negative", parts=1).similarity(given, bank), expected)


@pytest.mark.parametrize("name", ["background", "negative", "density"])
def test_a_class_without_background_is_named(name):
    none = patches([0, 10, 20, 30], [])
    bank = with_patches([patches([0, 20], [80, 100])], [none, none])
    with pytest.raises(RefexpError, match=r"references of leaf show no background.*encoder\.reference_context"):
        matcher(name).match(at(0), bank)


def test_kmeans_parts_by_hand():
    bank = with_patches([patches([0, 2, 90, 92], []), patches([1, 91], [200, 210])])
    similarity = matcher("kmeans_parts", k=2).similarity(at(1, 91, 46), bank)
    torch.testing.assert_close(similarity, torch.tensor([[1], [1], [cosine(45)]]))
    one = matcher("kmeans_parts", k=1).similarity(at(46), bank)  # all together: their mean
    torch.testing.assert_close(one, torch.ones(1, 1))


def test_kmeans_does_not_depend_on_the_order_and_weighs():
    generator = torch.Generator().manual_seed(0)
    tokens = F.normalize(torch.randn(40, 5, generator=generator), dim=1)
    weights = torch.rand(40, generator=generator) + 0.1
    order = torch.randperm(40, generator=generator)
    one, other = cosine_kmeans(tokens, weights, 4), cosine_kmeans(tokens[order], weights[order], 4)
    torch.testing.assert_close(one, other)
    nearest = (tokens @ one.T).argmax(dim=1)
    for cluster in range(4):  # converged: every center is the weighted mean of its tokens
        own = nearest == cluster
        torch.testing.assert_close(one[cluster], F.normalize(weights[own] @ tokens[own], dim=0))
    assert len(cosine_kmeans(tokens[:3], weights[:3], 8)) == 3


def test_density_by_hand():
    bank, given = with_patches([patches([0, 20], [80, 100])]), at(10, 50)
    ratio = [
        math.log(
            (math.exp(5 * cosine(a)) + math.exp(5 * cosine(b))) / (math.exp(5 * cosine(c)) + math.exp(5 * cosine(d)))
        )
        for a, b, c, d in ((10, 10, 70, 90), (50, 30, 30, 50))
    ]
    expected = torch.tensor([[(1 + r / (1 + abs(r))) / 2] for r in ratio])
    torch.testing.assert_close(matcher("density", kappa=5.0).similarity(given, bank), expected)
    assert float(expected[1]) == 0.5  # as far from both


@pytest.mark.parametrize("dimensions", [3, 5, 384, 1024])
@pytest.mark.parametrize("kappa", [2.0, 30.0, 500.0])
def test_the_kernel_integrates_to_one(dimensions, kappa):
    """Against a numerical integral over the angle: area of the sphere of one dimension less, times the density."""
    angle = torch.linspace(0, math.pi, 400001, dtype=torch.float64)[1:-1]
    log_area = math.log(2) + (dimensions - 1) / 2 * math.log(math.pi) - math.lgamma((dimensions - 1) / 2)
    log_terms = kappa * angle.cos() + (dimensions - 2) * angle.sin().log()
    log_integral = float(log_terms.logsumexp(dim=0)) + math.log(math.pi / 400000)
    tolerance = 0.06 if dimensions < 10 else 1e-4
    assert log_normalizer(kappa, dimensions) + log_area + log_integral == pytest.approx(0, abs=tolerance)


def test_kappa_follows_the_spread_of_the_references():
    generator = torch.Generator().manual_seed(0)

    def chosen(spread: float) -> float:
        tokens = torch.tensor([1.0, 0, 0]) + spread * torch.randn(3, 64, 3, generator=generator)
        of_class = [Patches(t, torch.ones(64), torch.zeros(64, dtype=torch.bool)) for t in tokens]
        return max(KAPPAS, key=lambda kappa: left_out_likelihood(of_class, kappa))

    narrow, wide = chosen(0.05), chosen(0.5)
    assert 200 < narrow < 4096 and 2 < wide < 64
    single = [Patches(torch.randn(64, 3), torch.ones(64), torch.zeros(64, dtype=torch.bool))]
    assert math.isfinite(left_out_likelihood(single, 10.0))
    for references in (single, made_bank(shots=3).known_patches[0]):
        assert left_out_likelihood([*references, *references], 10.0) == left_out_likelihood(references, 10.0)


def test_cyclic_against_a_loop():
    bank, given = made_bank(), made_proposals(5)
    for radius in (0, 1.5, 5):
        found = matcher("cyclic", radius=radius).similarity(given, bank)
        for row, mask in enumerate(decode(given.masks)):
            inside = mask.reshape(GRID, 4, GRID, 8).mean(axis=(1, 3)).flatten() >= 0.5
            for label, of_class in enumerate(bank.known_patches):
                means = [by_patch(given.tokens, np.flatnonzero(inside), reference, radius) for reference in of_class]
                assert float(found[row, label]) == pytest.approx(max(means), abs=1e-5)


def by_patch(tokens: torch.Tensor, mask: np.ndarray, reference: Patches, radius: float) -> float:
    under = np.flatnonzero(reference.weights.numpy() >= 0.5)

    def cos(p: int, q: int) -> float:
        return float(F.cosine_similarity(tokens[p], reference.tokens[q], dim=0))

    total = 0.0
    for p in mask:
        q = max(under, key=lambda q: cos(p, q))
        back = max(mask, key=lambda other: cos(other, q))
        if math.hypot(p // GRID - back // GRID, p % GRID - back % GRID) <= radius:
            total += cos(p, q)
    return total / len(mask)


def test_shares_of_patches():
    mask = np.zeros((1, 30, 50), dtype=bool)
    mask[0, :15, :5] = True
    shares = grid_shares(encode(mask), 10)
    assert shares.shape == (1, 100) and shares.sum() == 5 and shares.view(10, 10)[:5, 0].tolist() == [1] * 5
    assert grid_shares([], 10).shape == (0, 100)


def test_a_class_is_fitted_once():
    calls: list[int] = []
    fitted = PerClass(lambda patches: calls.append(len(patches)) or len(patches))
    bank = made_bank(shots=2)
    assert fitted(bank) == fitted(bank) == [2, 2, 2]
    assert len(calls) == 3
    known = bank.known_patches
    assert fitted(build_bank(bank.instances, [known[0], known[1][:1], known[2]])) == [2, 1, 2]
    assert calls[3:] == [1]
