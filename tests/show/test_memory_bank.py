"""The picture of the memory bank: what it computes, and that it is drawn for few and for many references."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from refexp.data.coco import Data, make_split
from refexp.encoders.base import Encoder
from refexp.folders.run_folder import RunFolder
from refexp.masks import decode
from refexp.method.memory import build_bank, view_reference
from refexp.show.memory_bank import DPI, draw_memory_bank, named_by_the_others
from refexp.show.patch_colors import feature_colors
from refexp.types import Weights


class Blocks(Encoder):
    """Each patch's own pixels, [8 * 8, 48]."""

    input_size, grid, reference_context = 32, 8, None

    def provenance(self):
        return Weights("none")

    def load(self, device):
        pass

    def forward(self, inputs):
        return F.unfold(inputs, 4, stride=4).transpose(1, 2)


def rgb_of(data, reference) -> np.ndarray:
    return data.references.read(data.references.images[reference.image_id])


CPU = torch.device("cpu")


def mask_of(data, reference) -> np.ndarray:
    return decode([reference.mask])[0]


@pytest.fixture
def taught(drawn):
    """`taught(shots, copies)` -> (Data, references, bank) of `copies` times two classes."""
    pictures, content = drawn["references"]
    classes = tuple(c["name"] for c in content["categories"])
    picture = {record["id"]: pixels for record, pixels in zip(content["images"], pictures, strict=True)}
    split = make_split(content, "drawn", classes, lambda record: picture[record["id"]], lambda record: "")

    def teach(shots: int, copies: int = 1):
        of_class = [[a for a in split.annotations if split.labels[a["category_id"]] == label] for label in range(2)]
        references = [[split.reference(a) for a in per_class[:shots]] for per_class in of_class] * copies
        data = Data(tuple(f"$x_{n}^$ {name} with a long name" for n in range(copies) for name in classes), split, split)
        encoder = Blocks()
        prototypes = [[view_reference(split, r, encoder, CPU).prototype for r in row] for row in references]
        return data, references, build_bank([torch.stack(row) for row in prototypes])

    return teach


def test_views_are_what_the_prototypes_are_made_of(taught):
    data, references, bank = taught(3)
    views = [[view_reference(data.references, r, Blocks(), CPU) for r in row[:5]] for row in references[:8]]
    for label, row in enumerate(views):
        for shot, view in enumerate(row):
            prototype = (view.weights @ view.tokens) / view.weights.sum()
            assert torch.allclose(prototype, bank.instances[label][shot])
            assert np.array_equal(view.rgb, rgb_of(data, references[label][shot]))
            assert np.array_equal(view.mask, mask_of(data, references[label][shot]))


def test_colors_tell_features_apart():
    """Two kinds of patches: one color each, far from each other; bleached outside the mask."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(2, 16, generator=generator)
    tokens = kinds[(torch.arange(64) // 32)] + 0.01 * torch.randn(64, 16, generator=generator)
    inside = torch.ones(64)
    inside[::8] = 0
    (picture,) = feature_colors([(tokens, inside)])
    assert picture.shape == (8, 8, 3) and picture.min() >= 0 and picture.max() <= 1
    first, second = picture[:4, 1:, 0], picture[4:, 1:, 0]
    assert abs(first.mean() - second.mean()) > 0.8 and first.std() < 0.1 and second.std() < 0.1
    assert picture[:, 0].min() >= 0.75
    assert np.array_equal(picture, feature_colors([(tokens, inside)])[0])


def test_colors_of_equal_patches_and_of_few_channels():
    for channels in (2, 16):
        (picture,) = feature_colors([(torch.ones(16, channels), torch.eye(4).flatten())])
        assert np.isfinite(picture).all()


def test_a_stray_reference_is_named_by_the_others():
    """It is nearer (.6) to the dogs than to the other cat (0), if not than to a mean with itself in it (.7)."""
    cat, dog, bird, stray = *torch.eye(4)[:3], torch.tensor([0, 0.6, 0, 0.8])
    bank = build_bank([torch.stack([cat, stray]), torch.stack([dog, dog]), bird[None]])
    assert named_by_the_others(0, 1, bank) == (1, pytest.approx(0.6))
    assert named_by_the_others(1, 0, bank) == (1, pytest.approx(1))
    assert named_by_the_others(2, 0, bank) is None


@pytest.mark.parametrize(("shots", "copies"), [(1, 1), (6, 6), (1, 15)])
def test_the_picture(taught, tmp_path, shots, copies):
    """One reference of two classes, and more of both than are drawn; names with signs that mean something to TeX."""
    data, references, bank = taught(shots, copies)
    views = [[view_reference(data.references, r, Blocks(), CPU) for r in row[:5]] for row in references[:8]]
    assert len(views) == min(2 * copies, 8) and len(views[0]) == min(shots, 5)
    RunFolder(tmp_path).write_memory_bank(views, bank)
    again, same_bank = RunFolder(tmp_path).memory_bank
    assert [len(row) for row in again] == [len(row) for row in views]
    assert all(torch.equal(a, b) for a, b in zip(same_bank.instances, bank.instances, strict=True))
    assert torch.equal(again[-1][-1].tokens, views[-1][-1].tokens)
    assert np.array_equal(again[-1][-1].mask, views[-1][-1].mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_memory_bank(tmp_path / "memory_bank.png", data.classes, again, same_bank, "RANDOM WEIGHTS: a note")
    with Image.open(tmp_path / "memory_bank.png") as picture:
        assert picture.width > 6 * DPI and picture.height > 5 * DPI
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["memory_bank.npz", "memory_bank.png"]
