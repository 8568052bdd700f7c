"""SAM2 at real architecture, seeded random weights, official checkpoint layout."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from weights import save_sam2

from refexp.errors import RefexpError
from refexp.machine.networks import normalise
from refexp.masks import areas, decode
from refexp.method.extraction import identity
from refexp.proposers import sam2
from refexp.proposers.sam2 import SAM2Proposer, build_sam2, point_grid
from refexp.types import Target

CPU = torch.device("cpu")


def test_point_grid_is_the_published_one(golden):
    np.testing.assert_array_equal(point_grid(1024, 32), golden("point_grid")["points_xy"])


def make_target(side: int = 1024) -> Target:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 16, 16), dtype=np.float32))
    square = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")[0]
    return Target(1, np.zeros((90, 120, 3), dtype=np.uint8), square)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    save_sam2("sam2_hiera_t", folder, seed=4)
    return folder


@pytest.fixture(scope="module")
def proposer(checkpoint):
    proposer = SAM2Proposer("sam2_hiera_t", str(checkpoint), points_per_side=4, iou_threshold=0.0)
    assert "UNOFFICIAL" in proposer.provenance().origin
    proposer.load(CPU)
    return proposer


def test_proposals(proposer):
    found = proposer.propose(make_target())
    assert 0 < len(found) <= 16
    assert found.masks_lr.shape == (len(found), 256, 256)
    assert found.masks_lr.dtype == torch.bool
    assert decode(found.masks).shape[1:] == (90, 120)
    assert (areas(found.masks) > 0).all()
    assert ((found.quality > 0) & (found.quality <= 1)).all()


def test_threshold_and_batches(proposer):
    everything = proposer.propose(make_target())
    proposer.batch = 5  # does not divide 16
    again = proposer.propose(make_target())
    assert again.masks == everything.masks
    torch.testing.assert_close(again.quality, everything.quality, atol=1e-5, rtol=0)
    middle = float(everything.quality.median())
    proposer.iou_threshold = middle
    assert (proposer.propose(make_target()).quality > middle).all()
    proposer.iou_threshold = 1.0
    assert len(proposer.propose(make_target())) == 0
    proposer.iou_threshold, proposer.batch = 0.0, 4


@pytest.mark.parametrize("no_mem_embed", [True, False])
def test_decoder_agrees_with_the_image_predictor_of_sam2(proposer, no_mem_embed):
    """The same logits and IoUs as SAM2's own image predictor, for single points; it always has `no_mem_embed`."""
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    # The predictor needs a whole network; the proposer has dropped the half for video.
    network = build_sam2("sam2_hiera_t")
    network.load_state_dict(torch.load(proposer.file, weights_only=True)["model"])
    network.directly_add_no_mem_embed = no_mem_embed
    predictor = SAM2ImagePredictor(network.eval())
    target = make_target()
    pixels = (target.square.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    predictor.set_image(pixels)
    points = proposer.points[[2, 9]]
    prompts = proposer.embed_prompts(points[:, None], (sam2.ON_OBJECT,))

    with torch.inference_mode():
        square = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        quality, logits = proposer.decode(prompts, proposer.embed(square, no_mem_embed))
    for row, point in enumerate(points):
        _, ious, low_res = predictor.predict(point[None].numpy(), np.ones(1), multimask_output=True, return_logits=True)
        best = int(ious.argmax())
        assert quality[row] == pytest.approx(ious[best], abs=1e-5)
        np.testing.assert_allclose(logits[row].clamp(-32, 32), low_res[best], atol=1e-3)


@pytest.mark.parametrize("stability", [0.98, 0.5])  # of these random weights' masks none is stable, or some are
def test_masks_of_boxes_agree_with_the_image_predictor_of_sam2(proposer, stability, monkeypatch):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    network = build_sam2("sam2_hiera_t")
    network.load_state_dict(torch.load(proposer.file, weights_only=True)["model"])
    network.sam_mask_decoder.dynamic_multimask_via_stability = True  # as `sam2.build_sam.build_sam2` builds it
    network.sam_mask_decoder.dynamic_multimask_stability_thresh = stability
    monkeypatch.setattr(sam2, "STABILITY", stability)
    predictor = SAM2ImagePredictor(network.eval())
    target = make_target()
    pixels = (target.square.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    predictor.set_image(pixels)
    square = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    target = Target(1, np.zeros((512, 2048, 3), dtype=np.uint8), square)
    boxes = torch.tensor([[10.0, 20, 900, 400], [0, 0, 2048, 512], [1200, 100, 1300, 180]])

    found = proposer.masks_in_boxes(target, boxes)
    scaled = boxes.numpy() * np.array([0.5, 2, 0.5, 2])
    logits = np.concatenate([predictor.predict(box=b, multimask_output=False, return_logits=True)[2] for b in scaled])
    full = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size=(512, 2048), mode="bilinear")[0] > 0
    assert len(found) == 3
    assert (decode(found) != full.numpy()).mean() < 1e-3


def test_bfloat16_is_close(proposer, monkeypatch):
    """Of few points on one embedding: a CPU without instructions for it takes 30 times longer in bfloat16."""
    features = proposer.model.forward_image(normalise(make_target().square)[None])
    monkeypatch.setattr(proposer.model, "forward_image", lambda image: copy.deepcopy(features))
    monkeypatch.setattr(proposer, "prompts", proposer.prompts[:4])
    exact = proposer.propose(make_target())
    monkeypatch.setattr(proposer, "precision", "bfloat16")
    rough = proposer.propose(make_target())
    assert len(rough) == len(exact)
    torch.testing.assert_close(rough.quality, exact.quality, atol=0.02, rtol=0)
    assert not torch.equal(rough.quality, exact.quality)
    agreement = (rough.masks_lr == exact.masks_lr).float().mean()
    assert agreement > 0.95


def test_only_what_passes_is_upscaled(proposer, monkeypatch):
    upscaled = []
    original = proposer.decoder.upscale
    monkeypatch.setattr(proposer.decoder, "upscale", lambda s, r, h, i: upscaled.append(len(h)) or original(s, r, h, i))
    proposer.iou_threshold = float(proposer.propose(make_target()).quality.median())
    upscaled.clear()
    found = proposer.propose(make_target())
    proposer.iou_threshold = 0.0
    assert sum(upscaled) < 16
    assert len(found) <= sum(upscaled)


@pytest.mark.slow
def test_compiled_is_close():
    plain = SAM2Proposer("sam2_hiera_t", weights="random", points_per_side=2, iou_threshold=0.0)
    compiled = SAM2Proposer("sam2_hiera_t", weights="random", points_per_side=2, iou_threshold=0.0, compile=True)
    for proposer in (plain, compiled):
        proposer.load(CPU)
    expected, found = plain.propose(make_target()), compiled.propose(make_target())
    torch.testing.assert_close(found.quality, expected.quality, atol=1e-4, rtol=0)


def test_building_leaves_hydra_alone():
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    build_sam2("sam2.1_hiera_t")
    assert not GlobalHydra.instance().is_initialized()


def test_building_touches_no_gpu(monkeypatch):
    """SAM2 puts tables on the first GPU as soon as there is one, which fails where it is full, or here pretended."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    network = build_sam2("sam2_hiera_t")
    assert {str(tensor.device) for tensor in (*network.parameters(), *network.buffers())} == {"cpu"}


def test_missing_checkpoint_is_named_at_once(tmp_path):
    with pytest.raises(RefexpError, match=r"092824/sam2\.1_hiera_base_plus\.pt"):
        SAM2Proposer("sam2.1_hiera_b+", str(tmp_path))


def test_wrong_checkpoint_is_named(checkpoint, tmp_path):
    (tmp_path / "sam2_hiera_large.pt").write_bytes((checkpoint / "sam2_hiera_tiny.pt").read_bytes())
    with pytest.raises(RefexpError, match="does not contain the weights of sam2_hiera_l"):
        SAM2Proposer("sam2_hiera_l", str(tmp_path)).load(CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sam2_hiera_s", "sam2_hiera_b+", "sam2_hiera_l", "sam2.1_hiera_s", "sam2.1_hiera_l"])
def test_every_size_builds_and_proposes(name):
    proposer = SAM2Proposer(name, weights="random", points_per_side=2, iou_threshold=0.0)
    assert "RANDOM" in proposer.provenance().origin
    proposer.load(CPU)
    assert len(proposer.propose(make_target())) > 0


def test_threads_decode_side_by_side_and_change_nothing(proposer):
    """Results of the decoder, to the last bit: each batch is computed by one thread."""
    square, boxes = make_target(), torch.tensor([[10.0, 10, 60, 70], [5, 40, 100, 80], [60, 5, 110, 50]])
    before, batch = torch.get_num_threads(), proposer.batch
    proposer.batch, found = 2, []
    try:
        for threads in (1, 3):
            torch.set_num_threads(1)  # of the image encoder
            image = proposer.embed(square.square, False)
            torch.set_num_threads(threads)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(proposer, "embed", lambda *_, image=image, **__: image)
                found.append((proposer.propose(square), proposer.masks_in_boxes(square, boxes)))
    finally:
        torch.set_num_threads(before)
        proposer.batch = batch
    (one, boxes_of_one), (three, boxes_of_three) = found
    assert torch.equal(one.quality, three.quality)
    assert torch.equal(one.masks_lr, three.masks_lr)
    assert (one.masks, boxes_of_one) == (three.masks, boxes_of_three)


def test_a_new_revision_makes_stored_results_anew(proposer, monkeypatch):
    settings = {"model": "sam2_hiera_t"}
    keys = []
    for revision in (0, 1, 2):
        monkeypatch.setattr(SAM2Proposer, "revision", revision)
        keys.append(identity(proposer, settings))
    assert "revision" not in keys[0]  # so that keys from before there were revisions stay valid
    assert [key.pop("revision", 0) for key in keys] == [0, 1, 2]
    assert keys[0] == keys[1] == keys[2]
