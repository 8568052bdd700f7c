"""The examples in the docstrings of the public Python API run and give the results that they show."""

import doctest

import pytest

import refexp
import refexp.api
import refexp.types


@pytest.mark.parametrize("module", [refexp, refexp.api, refexp.types], ids=lambda module: module.__name__)
def test_examples_run(module):
    results = doctest.testmod(module)
    assert results.attempted and not results.failed


@pytest.mark.parametrize(
    "function",
    [
        refexp.load,
        refexp.api.Model,
        refexp.api.Model.remember,
        refexp.api.Model.predict,
        refexp.types.Detections,
        refexp.types.Detections.decode,
        refexp.types.Detections.pick,
        refexp.types.Detections.above,
        refexp.types.Detections.to_coco,
        refexp.types.Detections.to_supervision,
    ],
    ids=lambda function: function.__qualname__,
)
def test_what_users_call_has_an_example(function):
    assert "Example:" in function.__doc__
