"""The region proposer on images drawn here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from refexp import masks
from refexp.config.building import build
from refexp.errors import RefexpError
from refexp.masks import LOW_RES
from refexp.proposers.regions import RegionProposer, _best_first, _rle, _upscaled_rles
from refexp.types import MaskProposals, Target

HEIGHT, WIDTH = 300, 500


def target(rgb: np.ndarray) -> Target:
    square = np.asarray(Image.fromarray(rgb).resize((512, 512)))
    return Target(id=1, rgb=rgb, square=torch.from_numpy(square.copy()).permute(2, 0, 1).float() / 255)


@pytest.fixture(scope="module")
def scene() -> tuple[Target, np.ndarray]:
    """A bright disc on a textured background, and the disc's mask."""
    texture = np.random.default_rng(0).integers(40, 100, (HEIGHT // 4, WIDTH // 4, 3)).astype(np.uint8)
    rgb = np.array(Image.fromarray(texture).resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    y, x = np.indices((HEIGHT, WIDTH))
    disc = (x - 300) ** 2 + (y - 130) ** 2 < 70**2
    rgb[disc] = (240, 200, 60)
    return target(rgb), disc


@pytest.fixture(scope="module")
def found(scene: tuple[Target, np.ndarray]) -> MaskProposals:
    return RegionProposer().propose(scene[0])


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a & b).sum(axis=(-1, -2)) / (a | b).sum(axis=(-1, -2))


def test_masks_in_boxes():
    rgb = np.full((100, 200, 3), 40, dtype=np.uint8)
    rgb[20:70, 50:120] = (220, 60, 30)
    proposer = RegionProposer()
    boxes = torch.tensor([[50.0, 20, 120, 70], [150, 80, 190, 95]])
    region, whole = masks.decode(proposer.masks_in_boxes(target(rgb), boxes))
    truth = np.zeros((100, 200), dtype=bool)
    truth[20:70, 50:120] = True
    assert (region & truth).sum() / (region | truth).sum() > 0.9
    assert whole.sum() == 40 * 15 and whole[80:95, 150:190].all()  # no region there: the box itself


def test_disc_is_found_and_ranks_first(scene: tuple[Target, np.ndarray], found: MaskProposals) -> None:
    assert iou(masks.decode(found.masks), scene[1])[int(found.quality.argmax())] > 0.9


def test_proposals_are_well_formed(found: MaskProposals) -> None:
    assert found.masks_lr.dtype == torch.bool and found.masks_lr.shape == (len(found), LOW_RES, LOW_RES)
    assert found.quality.dtype == torch.float32 and found.quality.shape == (len(found),)
    assert ((found.quality >= 0) & (found.quality <= 1)).all()
    assert all(tuple(rle["size"]) == (HEIGHT, WIDTH) for rle in found.masks)
    assert found.masks_lr.flatten(1).any(dim=1).all() and masks.decode(found.masks).any(axis=(1, 2)).all()
    small = masks.to_low_res(masks.decode(found.masks))
    assert (iou(small.numpy(), found.masks_lr.numpy()) > 0.8).all()


def test_no_near_duplicates_and_no_more_than_asked(scene: tuple[Target, np.ndarray]) -> None:
    image, _ = scene
    found = RegionProposer(duplicate_iou=0.7, max_proposals=10).propose(image)
    assert len(found) == 10
    flat = found.masks_lr.flatten(1).float()
    overlap = flat @ flat.T
    area = flat.sum(dim=1)
    assert (overlap / (area[:, None] + area - overlap)).fill_diagonal_(0).max() <= 0.7


def test_same_image_same_proposals(scene: tuple[Target, np.ndarray], found: MaskProposals) -> None:
    again = RegionProposer().propose(scene[0])
    assert torch.equal(found.quality, again.quality) and found.masks == again.masks


def test_constant_image_has_no_proposals() -> None:
    found = RegionProposer().propose(target(np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)))
    assert len(found) == 0 and found.quality.shape == (0,) and found.masks_lr.shape == (0, LOW_RES, LOW_RES)


@pytest.mark.parametrize("size", [(300, 500), (256, 256), (120, 1000), (1, 7)])
def test_fast_upscaling_equals_the_reference(size: tuple[int, int]) -> None:
    grid = torch.rand(12, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    blobs = torch.nn.functional.interpolate(grid, size=(LOW_RES, LOW_RES), mode="bicubic")[:, 0] > 0.6
    boxes = masks.low_res_boxes(blobs).numpy().astype(int) + np.array([0, 0, 1, 1])
    fast = masks.decode(_upscaled_rles(blobs.numpy(), boxes, size))
    exact = masks.decode(masks.upscale_to_rle(blobs.float() * 2 - 1, size))
    assert (fast != exact).mean() < 1e-4


def test_rle_joins_runs_across_columns() -> None:
    full = np.zeros((4, 6), dtype=bool)
    full[:, 2:4] = True
    assert _rle(full[:, 2:4].T, top=0, left=2, size=(4, 6)) == masks.encode(full[None])[0]


def test_the_better_duplicate_stays() -> None:
    members = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]], dtype=bool)
    area = np.array([40, 40, 18, 2], dtype=np.float32)
    assert _best_first(members, area, np.array([0.2, 0.5, 0.9], dtype=np.float32), 0.9).tolist() == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"color_spaces": ["lab"], "scales": [50, 100]}, "1 color_spaces but 2 scales"),
        ({"color_spaces": ["lab", "yuv"]}, "proposer.color_spaces"),
        ({"color_spaces": [], "scales": []}, "proposer.color_spaces"),
        ({"max_area": 1}, "proposer.max_area"),
        ({"min_area": 0.9}, "max_area=0.8"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(RefexpError, match=message):
        build(arguments, "proposer", RegionProposer)
