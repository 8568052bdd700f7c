"""More views of a reference: its prototype is the mean over them."""

from __future__ import annotations

import pytest
import torch
from test_golden_memory import PatchMean

from refexp.config.building import build
from refexp.data.coco import make_split
from refexp.errors import RefexpError
from refexp.method.memory import view_reference

CPU = torch.device("cpu")


@pytest.fixture
def prototype(drawn):
    """`prototype(context, views)` -> the prototype f32 [C] of a drawn reference."""
    pictures, content = drawn["references"]
    classes = tuple(c["name"] for c in content["categories"])
    picture = {record["id"]: pixels for record, pixels in zip(content["images"], pictures, strict=True)}
    split = make_split(content, "drawn", classes, lambda record: picture[record["id"]], lambda record: "")

    def of(context, views=()):
        encoder = PatchMean()
        encoder.reference_context, encoder.reference_views = context, views
        return view_reference(split, split.reference(split.annotations[0]), encoder, CPU).prototype

    return of


def test_the_prototype_is_the_mean_over_the_views(prototype):
    each = [prototype(context) for context in (0.2, None, 2.0)]
    assert not torch.equal(each[0], each[1]) and not torch.equal(each[1], each[2])
    torch.testing.assert_close(prototype(0.2, ("whole", 2.0)), torch.stack(each).mean(dim=0))


def test_a_mirrored_view_of_mean_colors_is_the_same(prototype):
    """The colors under a mirrored mask are those under the mask, except that nearest sampling rounds to one side."""
    torch.testing.assert_close(prototype(0.2, ["flip"]), prototype(0.2), atol=0.05, rtol=0)
    assert not torch.equal(prototype(0.2, ["flip"]), prototype(0.2))


def test_settings():
    node = {"_target_": "refexp.encoders.efficientnet.EfficientNetLite0", "reference_views": ["flip", 2, 0.5, "whole"]}
    assert list(build(node, "encoder").reference_views) == ["flip", 2, 0.5, "whole"]
    with pytest.raises(RefexpError, match=r"encoder\.reference_views=\['mirror'\]"):
        build(node | {"reference_views": ["mirror"]}, "encoder")
