"""The decoder against SAM2's own, on random weights and images: every parameter, norms and biases too, is random."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from refexp.proposers import sam2_decoder
from refexp.proposers.sam2 import Model, build_sam2
from refexp.proposers.sam2_decoder import SharedDecoder

MODELS = get_args(Model)
KINDS = {"point": (1,), "box": (2, 3), "points": (1, 0, 1, 1)}
"""The labels of a prompt's points. SAM2 pads them with one more, so that T = 8, 9 and 11."""


def random_(module: torch.nn.Module, seed: int = 0) -> None:
    """Products keep the scale of their input; norms' weights lie around 1, all other vectors around 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weight.data = noise / weight[0].numel() ** 0.5
        else:
            weight.data = (1.0 if "norm" in name or "upscaling.1.weight" in name else 0.0) + 0.3 * noise


@pytest.fixture(scope="module")
def network():
    """`network(name)` -> SAM2's decoder and prompt encoder; the encoder's weights are not even initialised."""
    networks = {}

    def build(name):
        if name not in networks:
            with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the positional encoding's matrix is not a parameter
                for init in ("trunc_normal_", "kaiming_uniform_", "uniform_", "normal_"):
                    patch.setattr(torch.nn.init, init, lambda tensor, *args, **kwargs: tensor)
                model = build_sam2(name)
            parts = model.sam_mask_decoder, model.sam_prompt_encoder
            for part in parts:
                random_(part.eval().requires_grad_(False), seed=MODELS.index(name))
            networks[name] = parts
        return networks[name]

    return build


def make_prompts(encoder, kind: str, count: int) -> torch.Tensor:
    labels = torch.tensor([KINDS[kind]]).expand(count, -1)
    points = 1024 * torch.rand(*labels.shape, 2, generator=torch.Generator().manual_seed(1))
    return encoder(points=(points, labels), boxes=None, masks=None)[0]


def make_image(side: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Embedding, positional encoding and the two finer maps."""
    generator = torch.Generator().manual_seed(2)
    shapes = (256, side), (256, side), (32, 4 * side), (64, 2 * side)
    maps = [torch.randn(1, channels, size, size, generator=generator) for channels, size in shapes]
    return scale * maps[0], maps[1], maps[2:]


def upstream(decoder: torch.nn.Module, prompts: torch.Tensor, image, dtype=torch.float64) -> dict[str, torch.Tensor]:
    """SAM2's mask tokens [B, 4, D], predicted IoUs [B, 4], and of its four masks the best and the single one."""
    embedding, position, finer = image
    finer = [x.to(dtype) for x in finer]
    no_mask = torch.zeros_like(embedding, dtype=dtype)
    masks, ious, tokens, _ = (
        copy.deepcopy(decoder)
        .to(dtype)
        .predict_masks(embedding.to(dtype), position.to(dtype), prompts.to(dtype), no_mask, True, finer)
    )
    iou, which = ious[:, 1:].max(dim=1)
    best = masks[torch.arange(len(prompts)), which + 1]
    return {"tokens": tokens, "ious": ious, "best iou": iou, "best mask": best, "single mask": masks[:, 0]}


def ours(
    decoder: torch.nn.Module, prompts: torch.Tensor, image, dtype=torch.float32, half=None
) -> dict[str, torch.Tensor]:
    """The same by `SharedDecoder`, with weights and tokens of `dtype` and, if given, under autocast to `half`."""
    embedding, position, finer = image
    shared = SharedDecoder(copy.deepcopy(decoder).to(dtype))
    with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
        prepared = shared.prepare(embedding.to(dtype), position.to(dtype), [x.to(dtype) for x in finer])
        tokens, state = shared.attend(prompts.to(dtype), prepared)
        iou, hyper = shared.best(tokens)
        every = torch.arange(len(tokens))
        best, single = (shared.upscale(state, every, weights, prepared) for weights in (hyper, shared.single(tokens)))
    ious = shared.decoder.iou_prediction_head(tokens[:, 0])
    return {"tokens": tokens[:, 1:], "ious": ious, "best iou": iou, "best mask": best, "single mask": single}


def errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest absolute error of each output, divided by its largest expected value if that exceeds 1."""
    return {
        name: float((found[name] - value).abs().max() / value.abs().max().clamp(min=1))
        for name, value in expected.items()
    }


@pytest.mark.parametrize(("kind", "side"), [("point", 64), ("box", 32)])
@pytest.mark.parametrize("name", MODELS)
def test_equals_sam2(network, name, kind, side):
    """For points at the real size, 64 x 64 image tokens."""
    decoder, encoder = network(name)
    case = decoder, make_prompts(encoder, kind, 1), make_image(side)
    expected = upstream(*case)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        found = errors(ours(*case, dtype), expected)
        assert max(found.values()) < tolerance, found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [1, 3, 6])
def test_equals_sam2_with_peaked_attention(network, factor, kind):
    """All projections are multiplied. There are more prompts than pass over the image at once.

    Six times as large they multiply rounding errors too, so that SAM2's own decoder in float32 is 1e-5 to 3e-4 away
    from itself in float64. There, twice its error is allowed.
    """
    decoder, encoder = network(MODELS[0])
    decoder = copy.deepcopy(decoder)
    for name, weight in decoder.named_parameters():
        if name.endswith("proj.weight"):
            weight.mul_(factor)
    case = decoder, make_prompts(encoder, kind, 9), make_image(16)
    expected = upstream(*case)
    found = errors(ours(*case, torch.float64), expected)
    assert max(found.values()) < 1e-9, found
    found = errors(ours(*case), expected)
    theirs = errors(upstream(*case, torch.float32), expected) if factor == 6 else dict.fromkeys(found, 0.0)
    assert all(error < max(1e-5, 2 * theirs[name]) for name, error in found.items()), (found, theirs)


def test_equals_sam2_without_object_scores(network):
    """One output token less: T = 7."""
    decoder, encoder = network(MODELS[0])
    settings = {"transformer_dim": 256, "use_high_res_features": True, "iou_prediction_use_sigmoid": True}
    plain = type(decoder)(transformer=copy.deepcopy(decoder.transformer), **settings).eval().requires_grad_(False)
    random_(plain, seed=3)
    case = plain, make_prompts(encoder, "point", 2), make_image(16)
    found = errors(ours(*case, torch.float64), upstream(*case))
    assert max(found.values()) < 1e-9, found


@pytest.mark.parametrize(("scale", "writes"), [(0.01, 1), (1, 1), (30, 1), (500, 1), (1, 25)])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(network, half, scale, writes):
    """Also for image embeddings, and additions to them, with norms that overflow float16 when squared."""
    decoder, encoder = network(MODELS[0])
    decoder = copy.deepcopy(decoder)
    for layer in decoder.transformer.layers:
        layer.cross_attn_image_to_token.v_proj.weight *= writes
    case = decoder, make_prompts(encoder, "point", 6), make_image(16, scale)
    exact, rough = ours(*case), ours(*case, half=half)
    assert rough["best mask"].dtype == half
    assert rough["ious"].dtype == torch.float32
    precise, loose = half == torch.float16, 1 if scale < 100 else 3  # what overflows is off by far more
    torch.testing.assert_close(rough["ious"], exact["ious"], atol=(5e-4 if precise else 4e-3) * loose, rtol=0)
    one, other = exact["single mask"] > 0, rough["single mask"] > 0
    overlap = (one & other).sum(dim=(1, 2)) / (one | other).sum(dim=(1, 2))
    assert rough["best mask"].isfinite().all()
    assert overlap.min() > 1 - (0.005 if precise else 0.02) * loose


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_means_that_the_norm_subtracts_cost_no_precision(network, half):
    """The first transposed convolution and its finer map may have a large mean over channels: the norm subtracts it."""
    decoder, encoder = network(MODELS[0])
    prompts, (embedding, position, finer) = make_prompts(encoder, "point", 3), make_image(16)
    expected = ours(decoder, prompts, (embedding, position, finer))["single mask"] > 0
    decoder = copy.deepcopy(decoder)
    decoder.output_upscaling[0].weight += 8 * torch.randn(256, 1, 1, 1, generator=torch.Generator().manual_seed(4))
    shifted = embedding, position, [finer[0], finer[1] + 120]
    found = ours(decoder, prompts, shifted, half=half)["single mask"] > 0
    assert (found == expected).float().mean().item() > (0.9995 if half == torch.float16 else 0.997)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_image_tokens_that_cancel_stay_finite(network, half):
    """What the first layer writes is the negative of the image embedding, so that its norm meets zero and rounding."""
    decoder, encoder = network(MODELS[0])
    decoder = copy.deepcopy(decoder)
    attention = decoder.transformer.layers[0].cross_attn_image_to_token
    attention.v_proj.weight.zero_()
    embedding, position, finer = make_image(16)
    embedding = -attention.out_proj(attention.v_proj.bias)[None, :, None, None].expand_as(embedding)
    found = ours(decoder, make_prompts(encoder, "point", 3), (embedding, position, finer), half=half)
    assert all(value.isfinite().all() for value in found.values())


def test_prompts_do_not_meet(network):
    """Batches, chunks and chosen rows give what each prompt gives alone."""
    decoder, encoder = network(MODELS[0])
    shared = SharedDecoder(decoder)
    image = shared.prepare(*make_image(16))
    prompts = make_prompts(encoder, "point", 7)
    tokens, state = shared.attend(prompts, image)
    hyper = shared.single(tokens)
    every = torch.arange(len(tokens))
    logits = shared.upscale(state, every, hyper, image)
    rows = torch.tensor([6, 1])
    torch.testing.assert_close(shared.upscale(state, rows, hyper[rows], image), logits[rows])
    assert shared.upscale(state, rows[:0], hyper[:0], image).shape == (0, 64, 64)
    for row in (0, 6):
        alone, state_alone = shared.attend(prompts[row : row + 1], image)
        torch.testing.assert_close(alone[0], tokens[row], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            shared.upscale(state_alone, every[:1], shared.single(alone), image)[0], logits[row], atol=1e-4, rtol=0
        )


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_prompt_has_image_tokens(network):
    """The largest tensor of the attention is Z, of 2 J = 128 rows for a point; image tokens would have 256."""
    decoder, encoder = network(MODELS[0])
    shared = SharedDecoder(decoder)
    image = shared.prepare(*make_image(64))
    prompts = make_prompts(encoder, "point", 2)
    with Largest() as largest:
        _, state = shared.attend(prompts, image)
    assert state.Z_BRN.shape == (2, 128, 4096)
    assert largest.elements == state.Z_BRN.numel()


@pytest.mark.parametrize("half", [None, torch.float16])
def test_nothing_makes_a_gpu_wait(network, half, monkeypatch):
    """Fake tensors have no values: an operation that has to read one raises."""
    monkeypatch.setattr(sam2_decoder, "at_once", lambda *_: (256, 16, 4096))  # as on a GPU
    decoder, encoder = network(MODELS[0])
    prompts, image = make_prompts(encoder, "box", 5), make_image(16)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        embedding, position, finer = (
            fake.from_tensor(x) if isinstance(x, torch.Tensor) else [fake.from_tensor(y) for y in x] for x in image
        )
        shared = SharedDecoder(decoder)
        with torch.autocast("cpu", dtype=half or torch.bfloat16, enabled=half is not None):
            prepared = shared.prepare(embedding, position, finer)
        tokens, state = shared.attend(fake.from_tensor(prompts), prepared)
        iou, hyper = shared.best(tokens)
        logits = shared.upscale(state, fake.from_tensor(torch.arange(5)), hyper, prepared)
        assert logits.shape == (5, 64, 64)
        with pytest.raises(DataDependentOutputException):
            iou.max().item()


def test_pieces_cover_all_and_are_as_large_as_the_device_wants():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for dtype, prompts, tokens in ((torch.float64, 4, 512), (torch.float32, 8, 1024), (torch.bfloat16, 16, 2048)):
        assert sam2_decoder.at_once(cpu, dtype) == (prompts, 1, tokens)
        lengths = [some.stop - some.start for some in sam2_decoder.pieces(19, prompts)]
        assert (sum(lengths), max(lengths)) == (19, prompts)
    assert sam2_decoder.at_once(gpu, torch.float16) == (256, 16, 4096)


def test_pieces_do_not_change_the_result(network, monkeypatch):
    decoder, encoder = network(MODELS[0])
    shared = SharedDecoder(decoder)
    image = shared.prepare(*make_image(16))
    results = []
    for sizes in ((256, 16, 4096), (2, 2, 100)):
        monkeypatch.setattr(sam2_decoder, "at_once", lambda *_, sizes=sizes: sizes)
        tokens, state = shared.attend(make_prompts(encoder, "point", 5), image)
        _, hyper = shared.best(tokens)
        results.append((tokens, shared.upscale(state, torch.arange(5), hyper, image)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
