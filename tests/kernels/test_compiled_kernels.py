"""How kernels are compiled."""

from __future__ import annotations

import numpy as np

from refexp.kernels import compiled, grown


def test_without_a_folder_for_the_cache():
    """numba finds none for code that is in no file, as for a package and a home that cannot be written."""
    names: dict = {}
    exec(compile("def twice(x):\n    return 2 * x\n", "<no file>", "exec"), names)
    assert compiled(names["twice"])(4) == 8


def test_products_and_sums_are_rounded_one_by_one():
    """A fused multiply-add would keep the small part of the product."""
    names: dict = {}
    exec(compile("def f(a, b, c):\n    return a * b + c\n", "<no file>", "exec"), names)
    one = 1 + 2.0**-30
    assert compiled(names["f"])(one, one, -(1 + 2.0**-29)) == 0


def test_an_array_of_twice_the_length():
    values = np.arange(3, dtype=np.int32)
    assert len(grown(values)) == 6 and grown(values).dtype == np.int32
    assert grown(values)[:3].tolist() == [0, 1, 2]
