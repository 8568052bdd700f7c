"""What components return is checked at the seams: a violation is one line, what came and what is expected."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig

from refexp.config.components import build_networks
from refexp.config.composing import compose_config
from refexp.config.validating import check_config, try_component
from refexp.data.coco import make_split
from refexp.data.rendering import render_split
from refexp.encoders.base import Encoder
from refexp.errors import RefexpError
from refexp.masks import encode, to_low_res
from refexp.matchers.prototype import PrototypeMatcher
from refexp.method import contract
from refexp.method.box_masks import complete
from refexp.method.memory import view_reference
from refexp.method.pipeline import detect, extract
from refexp.postprocess.steps import ClassNMS, SoftMerge, TopK
from refexp.proposers.base import Proposer
from refexp.types import Candidates, MaskProposals, MemoryBank, Proposals, Target, Weights

CPU = torch.device("cpu")
SIZE = (48, 64)


@pytest.fixture(autouse=True)
def nothing_passed_yet():
    contract.forget()


class Means(Encoder):
    """A valid encoder: the mean colour of each patch; `bad` changes what it gives."""

    input_size, grid, reference_context = 64, 16, None
    calls = 0

    def __init__(self, bad=lambda tokens: tokens) -> None:
        self.bad = bad

    def provenance(self) -> Weights:
        return Weights("none needed")

    def load(self, device) -> None: ...

    def forward(self, inputs):
        self.calls += 1
        return self.bad(torch.nn.functional.adaptive_avg_pool2d(inputs, self.grid).flatten(2).transpose(1, 2))


class Bars(Proposer):
    """A valid proposer: four bars; `bad` changes what it gives."""

    image_size = 256

    def __init__(self, bad=lambda found: found) -> None:
        self.bad = bad

    def propose(self, target):
        masks = np.zeros((4, *target.size), dtype=bool)
        for i, mask in enumerate(masks):
            mask[:, 10 * i : 10 * i + 12] = True
        return self.bad(MaskProposals(torch.linspace(0, 1, 4), to_low_res(masks), encode(masks)))

    def masks_in_boxes(self, target, boxes):
        return self.bad(encode(np.ones((len(boxes), *target.size), dtype=bool)))


class Bad:
    """A matcher and a step: what the valid ones give, changed."""

    def __init__(self, bad=lambda found: found) -> None:
        self.bad = bad

    def match(self, proposals, bank):
        return self.bad(PrototypeMatcher().match(proposals, bank))

    def __call__(self, candidates, proposals):
        return self.bad(candidates)


def target(id_: int = 1) -> Target:
    """A grey image; blue is its strongest colour after the encoder's input is normalised: every bar gets class 2."""
    return Target(id_, np.full((*SIZE, 3), 99, dtype=np.uint8), torch.full((3, 256, 256), 0.9))


def extracted(encoder=None, proposer=None, images: int = 1) -> list[Proposals]:
    return extract([target(i) for i in range(images)], encoder or Means(), proposer or Bars(), CPU)


def detected(matcher=None, steps=(), proposals=None):
    bank = MemoryBank(torch.eye(3), [torch.eye(3)[i : i + 1] for i in range(3)])
    return detect(1, extracted()[0] if proposals is None else proposals, bank, matcher or PrototypeMatcher(), steps)


def refused(function, *arguments) -> str:
    with pytest.raises(RefexpError) as error:
        function(*arguments)
    return str(error.value)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda t: t[:, :100], "gave [1, 100, 3]; expected [1, 256, C] for grid=16"),
        (lambda t: t[0], "gave [256, 3]; expected [1, 256, C] for grid=16"),
        (lambda t: torch.cat([t, t]), "gave [2, 256, 3]; expected [1, 256, C] for grid=16"),
        (lambda t: t.transpose(1, 2), "gave [1, 3, 256]; expected [1, 256, C] for grid=16"),
        (lambda t: t[..., :0], "gave [1, 256, 0]; expected [1, 256, C] for grid=16"),
        (lambda t: t.half(), "gave float16; expected float32"),
        (lambda t: t.numpy(), "gave ndarray; expected a tensor."),
        (lambda t: t / t.new_tensor([1, 0, 1]), "gave values that are NaN or infinite, 256 of 768."),
    ],
)
def test_encoder(bad, says):
    assert refused(extracted, Means(bad)) == f"encoder Means: forward {says}"
    pictures, content = render_split(3, ("ladybird",), 1, "targets")
    split = make_split(content, "scene", ("ladybird",), lambda _: pictures[0], lambda _: "")
    reference = split.reference(split.annotations[0])
    assert refused(view_reference, split, reference, Means(bad), CPU) == f"encoder Means: forward {says}"


def test_each_batch_size_of_an_encoder_is_checked():
    encoder = Means(lambda t: t[:1])
    extracted(encoder)
    assert "gave [1, 256, 3]; expected [3, 256, C]" in refused(extracted, encoder, None, 3)


def changed(**fields):
    return lambda found: replace(found, **{name: change(getattr(found, name)) for name, change in fields.items()})


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda f: None, "gave NoneType; expected refexp.types.MaskProposals."),
        (changed(quality=lambda q: q[:3]), "gave quality [3]; expected [4], one for each of masks"),
        (changed(quality=lambda q: q[:, None]), "gave quality [4, 1]; expected [4], one for each of masks"),
        (changed(quality=lambda q: q.double()), "gave quality float64; expected float32"),
        (changed(quality=lambda q: q / 0), "gave quality that are NaN or infinite, 4 of 4."),
        (changed(quality=lambda q: q + 0.5), "gave quality 1.16667; expected quality in [0, 1]."),
        (changed(quality=lambda q: q - 0.5), "gave quality -0.5; expected quality in [0, 1]."),
        (changed(quality=lambda q: q.tolist()), "gave quality list; expected a tensor."),
        (
            changed(masks_lr=lambda m: m[:2]),
            "gave masks_lr [2, 256, 256]; expected [4, 256, 256], one for each of masks",
        ),
        (
            changed(masks_lr=lambda m: m[:, :64, :64]),
            "gave masks_lr [4, 64, 64]; expected [4, 256, 256], one for each of masks",
        ),
        (changed(masks_lr=lambda m: m.float()), "gave masks_lr float32; expected bool"),
        (changed(masks_lr=lambda m: m & False), "gave an empty mask, masks_lr[0]; expected it to be left out."),
        (
            changed(masks=lambda m: [*m[:3], encode(np.zeros((1, *SIZE), dtype=bool))[0]]),
            "gave an empty mask, masks[3]; expected it to be left out.",
        ),
        (
            changed(masks=lambda m: encode(np.ones((4, *SIZE[::-1]), dtype=bool))),
            "gave masks[0] of size [64, 48]; expected [48, 64], the image's",
        ),
        (
            changed(masks=lambda m: [np.ones(SIZE, dtype=bool)] * 4),
            "gave masks[0] ndarray; expected a compressed RLE (refexp.masks.encode).",
        ),
        (
            changed(masks=lambda m: torch.ones(4, *SIZE)),
            "gave Tensor of masks; expected a list of RLEs (refexp.masks.encode).",
        ),
    ],
)
def test_proposer(bad, says):
    assert refused(extracted, None, Bars(bad)) == f"proposer Bars: propose {says}"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda m: m * 2, "gave 2 masks; expected 1, one for each box."),
        (lambda m: encode(np.ones((1, 9, 9), dtype=bool)), "gave masks[0] of size [9, 9]; expected [288, 384]"),
    ],
)
def test_masks_in_boxes(bad, says):
    pictures, content = render_split(3, ("ladybird",), 1, "targets")
    split = make_split(content, "scene", ("ladybird",), lambda _: pictures[0], lambda _: "")
    box = replace(split.reference(split.annotations[0]), mask=None)
    size = list(pictures[0].shape[:2])
    says = says.replace("[288, 384]", f"{size}, the image's")
    assert refused(complete, split, [box], Bars(bad)) == f"proposer Bars: masks_in_boxes {says}"
    assert complete(split, [box], Bars())[0].mask


CANDIDATES = [
    (lambda f: (f.index, f.labels), "gave tuple; expected refexp.types.Candidates."),
    (changed(index=lambda i: i.float()), "gave index float32; expected int64"),
    (changed(index=lambda i: i.tolist()), "gave index list; expected a tensor."),
    (changed(labels=lambda x: x[:2]), "gave labels [2]; expected [4], one for each of index"),
    (changed(labels=lambda x: x.int()), "gave labels int32; expected int64"),
    (changed(scores=lambda s: s[:, None]), "gave scores [4, 1]; expected [4], one for each of index"),
    (changed(scores=lambda s: s.double()), "gave scores float64; expected float32"),
    (changed(scores=lambda s: s / 0), "gave scores that are NaN or infinite, 4 of 4."),
    (lambda f: f.pick(torch.tensor([0, 1, 1])), "gave proposal 1 with class 2 2 times; expected it once."),
]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        *CANDIDATES,
        (changed(index=lambda i: i + 1), "gave index 4; expected index in [0, 3]."),
        (changed(index=lambda i: i - 1), "gave index -1; expected index in [0, 3]."),
        (changed(labels=lambda x: x + 3), "gave labels 5; expected labels in [0, 2]."),
    ],
)
def test_matcher(bad, says):
    assert refused(detected, Bad(bad)) == f"matcher Bad: match {says}"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        *CANDIDATES,
        (
            changed(index=lambda i: i + 9),
            "gave proposal 9 with class 2, which is not among the candidates that it got; "
            "expected some of these, reordered or rescored.",
        ),
        (
            changed(labels=lambda x: x + 1),
            "gave proposal 0 with class 3, which is not among the candidates that it got; "
            "expected some of these, reordered or rescored.",
        ),
    ],
)
def test_step(bad, says):
    assert refused(detected, None, [Bad(bad)]) == f"postprocess Bad {says}"


@pytest.mark.parametrize(
    "keep",
    [lambda f: f.pick(torch.zeros(0, dtype=torch.int64)), lambda f: f.pick(torch.tensor([2, 0]))],
)
def test_steps_may_keep_nothing_or_reorder(keep):
    found = detected(None, [Bad(keep), ClassNMS(), SoftMerge(), TopK()])
    assert len(found) == len(keep(PrototypeMatcher().match(extracted()[0], MemoryBank(torch.eye(3), []))))


def test_a_proposal_may_have_two_classes():
    def both(found):
        again = Candidates(found.index, (found.labels + 1) % 3, found.scores)
        return Candidates(*(torch.cat([getattr(f, n) for f in (found, again)]) for n in ("index", "labels", "scores")))

    assert len(detected(Bad(both))) == 8


def test_a_proposer_may_find_nothing():
    (nothing,) = extracted(None, Bars(lambda found: found.pick([])))
    assert len(nothing) == 0
    assert len(detected(None, [ClassNMS(), SoftMerge(), TopK()], nothing)) == 0
    assert "expected no index: there is nothing to choose from" in refused(
        detected, Bad(lambda found: Candidates(torch.tensor([0]), torch.tensor([0]), torch.ones(1))), (), nothing
    )


def test_an_empty_answer_does_not_count_as_the_check():
    answers = [lambda found: found.pick([]), changed(quality=lambda q: q + 1)]
    proposer = Bars()
    proposer.bad = answers[0]
    extracted(None, proposer)
    proposer.bad = answers[1]
    assert "expected quality in [0, 1]" in refused(extracted, None, proposer)


def test_rounding_of_quality_is_no_violation():
    extracted(None, Bars(changed(quality=lambda q: q + 1e-6)))


def test_a_component_is_checked_once(monkeypatch):
    """The first answer that passes counts; what the checks do is not done again."""
    parts = Means(), Bars(), Bad(), [Bad(), TopK()]
    detected(*parts[2:], extracted(*parts[:2])[0])
    monkeypatch.setattr(contract, "_tensor", None)
    monkeypatch.setattr(contract, "_instance", None)
    detected(*parts[2:], extracted(*parts[:2])[0])
    with pytest.raises(TypeError):
        extracted(Means(), *parts[1:2])  # another one
    contract.forget()
    with pytest.raises(TypeError):
        extracted(*parts[:2])


def test_a_component_without_weak_references_is_checked_each_time():
    class Slots:
        __slots__ = ("bad",)

        def __call__(self, candidates, proposals):
            return self.bad(candidates)

    step = Slots()
    step.bad = lambda found: found
    detected(None, [step])
    step.bad = changed(scores=lambda s: s / 0)
    assert "postprocess Slots gave scores that are NaN" in refused(detected, None, [step])


def test_in_a_run_the_option_is_named(monkeypatch):
    choices = {"encoder": "bad_grid", "matcher": "prototype", "postprocess": "mine"}
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    task = ["encoder=bad_grid", "matcher={_target_:mine.Bad}"]
    run = SimpleNamespace(runtime=SimpleNamespace(choices=choices), overrides=SimpleNamespace(task=task))
    monkeypatch.setattr(HydraConfig, "get", lambda: run)
    four = Means(lambda t: t.repeat(1, 4, 1))
    assert refused(extracted, four) == "encoder=bad_grid: forward gave [1, 1024, 3]; expected [1, 256, C] for grid=16"
    bad = changed(scores=lambda s: s.double())
    assert refused(detected, None, [Bad(bad)]) == "postprocess=mine: Bad gave scores float64; expected float32"
    assert refused(detected, Bad(bad)) == "matcher Bad: match gave scores float64; expected float32"


class NoGrid(Means):
    @property
    def grid(self):
        raise AttributeError


def outside(name: str) -> dict[str, str]:
    return {"_target_": f"{__name__}.{name}"}


@pytest.mark.parametrize(
    ("group", "name", "says"),
    [
        ("encoder", "NoGrid", "encoder NoGrid: NoGrid has no grid."),
        ("encoder", "Bars", "encoder Bars: Bars is not a subclass of refexp.encoders.base.Encoder."),
        ("proposer", "Means", "proposer Means: Means is not a subclass of refexp.proposers.base.Proposer."),
    ],
)
def test_what_a_component_lacks_is_named_before_anything_is_loaded(group, name, says):
    parts = {"encoder": outside("Means"), "proposer": outside("Bars")} | {group: outside(name)}
    assert refused(build_networks, parts) == says


class Random(Means):
    def forward(self, inputs):
        return super().forward(inputs) + torch.rand(1)


class Mixing(Means):
    def forward(self, inputs):
        return super().forward(inputs - inputs.mean(dim=0))


class Shy(Bars):
    def propose(self, target):
        raise KeyError("no such layer")


class InPlace(Bad):
    def __call__(self, candidates, proposals):
        candidates.scores.add_(0.5)
        return candidates


class Doubling(Bad):
    def __call__(self, candidates, proposals):
        return candidates.pick(torch.arange(len(candidates)).repeat(2))


def tried(**targets: str) -> dict[str, tuple[bool, str]]:
    overrides = [word for group in targets for word in (f"~{group}",)]
    overrides += [
        f"+{group}={{_target_:{__name__}.{name}}}" for group, name in targets.items() if group != "postprocess"
    ]
    if "postprocess" in targets:
        overrides.append(f"+postprocess={{own:{{_target_:{__name__}.{targets['postprocess']}}}}}")
    return {line.component: line[1:] for line in try_component(compose_config(overrides))}


def test_components_that_keep_the_contract():
    lines = tried(encoder="Means", proposer="Bars", matcher="Bad", postprocess="Bad")
    assert [*lines] == ["encoder", "proposer", "matcher", "postprocess.own"]
    assert all(ok for ok, _ in lines.values()), lines
    assert lines["encoder"][1] == "Means: tokens [1, 256, 3], the same alone and in a batch; weights: none needed"
    assert lines["proposer"][1].startswith("Bars: 4 and 4 proposals in two images")


@pytest.mark.parametrize(
    ("group", "name", "says"),
    [
        ("encoder", "Random", "gives two answers to one question"),
        ("encoder", "Mixing", "forward of an image depends on the batch"),
        ("encoder", "NoGrid", "NoGrid has no grid"),
        ("proposer", "Shy", "KeyError: 'no such layer'"),
        ("matcher", "Means", "Means has no match"),
        ("postprocess", "InPlace", "changes what it is given"),
        ("postprocess", "Doubling", "2 times; expected it once"),
        ("encoder", "Nowhere", "cannot import"),
    ],
)
def test_components_that_break_it(group, name, says):
    lines = tried(**{"encoder": "Means", "proposer": "Bars", "postprocess": "Bad"} | {group: name})
    ok, message = lines["postprocess.own" if group == "postprocess" else group]
    assert not ok and says in message
    if group in ("encoder", "proposer"):
        assert lines["matcher"] == (False, "not tried: it needs an encoder and a proposer that work")
        assert lines["postprocess.own"] == (False, "not tried: it needs a matcher that works")


def test_a_configuration_is_checked_without_a_run():
    lines = {
        line.component: line[1:] for line in check_config(["dataset.references=40", "dataset.targets=1", "shots=1"])
    }
    assert all(ok for ok, _ in lines.values())
    found = "8 classes; 40 images with references, 1 targets; 8 references of 8 classes drawn"
    assert lines["dataset"] == (True, found)
    too_few = check_config(["dataset.references=2", "dataset.targets=1"])[-1]
    assert not too_few.ok and "too few valid references for 5 shots" in too_few.message
    assert lines["postprocess"] == (True, "nms, merge, topk")
    wrong = ["encoder=dinov2_vits14", "checkpoints.dir=/nowhere", "dataset=coco", "shots.n=0", "stage=some"]
    mistakes = {line.component: line.message for line in check_config(wrong) if not line.ok}
    assert [*mistakes] == ["stage", "encoder", "shots", "dataset"]
    assert "weights of dinov2_vits14 are missing" in mistakes["encoder"]
    assert "shots.n=0" in mistakes["shots"] and "no such folder" in mistakes["dataset"]
    assert "Did you mean 'dinov2_vits14'" in refused(check_config, ["encoder=dinov2_vits"])
