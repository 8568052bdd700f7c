"""Records prove themselves: whatever changes in one of them is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from stores import flip, place_of

from refexp.store.entries import Store, digest
from refexp.store.records import ALIGNMENT, HEAD, Damaged, pack, unpack
from refexp.store.shards import LINE

SETTINGS = {"kind": "proposals", "encoder": "DINOv2(arch=vits14)"}


def entry_of(kind: str) -> dict[str, np.ndarray]:
    """A small entry of a kind."""
    fixture = Path(__file__).parents[1] / "fixtures" / "entries.npz"
    with np.load(fixture, allow_pickle=False) as arrays:
        return {name.split("/")[2]: arrays[name] for name in arrays.files if name.startswith(f"sam2/{kind}/")}


KINDS = ("proposals", "prototype", "box mask", "settings")


def record_of(kind: str) -> np.ndarray:
    if kind == "settings":
        return pack(digest(SETTINGS), "0" * 64, {}, SETTINGS)
    return pack(digest(kind), digest(SETTINGS), entry_of(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_noticed(kind):
    """1,000 random flips over the whole record, and every bit of its head."""
    record, rng = record_of(kind), np.random.default_rng(0)
    assert len(record) > HEAD.size
    key = digest(SETTINGS) if kind == "settings" else digest(kind)
    unpack(record, key)
    bits = [*range(8 * HEAD.size), *rng.integers(0, 8 * len(record), 1000).tolist()]
    for bit in bits:
        flipped = record.copy()
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Damaged):
            unpack(flipped, key)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint8", "int64", "bool", ">i4", "U3"])
@pytest.mark.parametrize("shape", [(), (0,), (0, 7), (3, 5)])
def test_arrays_come_back_as_they_were(dtype, shape):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    entry = {"a": array, "turned": array.T, "ä": np.ones(3)}
    again = unpack(pack(digest(0), digest(1), entry), digest(0))
    assert (again.key, again.made_by, again.settings) == (digest(0), digest(1), None)
    for name, expected in entry.items():
        assert again.arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(again.arrays[name], expected)


def test_arrays_lie_at_multiples_of_64_bytes():
    record = pack(digest(0), digest(1), {"a": np.ones(3, dtype=np.uint8), "b": np.full(5, 7.0)})
    assert len(record) % ALIGNMENT == 0
    first = unpack(record).arrays["b"].__array_interface__["data"][0] - record.__array_interface__["data"][0]
    assert first % ALIGNMENT == 0


def test_no_pickle():
    with pytest.raises(TypeError, match="Python objects"):
        pack(digest(0), digest(1), {"a": np.array([{}])})


def test_a_record_of_another_key_is_damaged():
    with pytest.raises(Damaged, match=digest(0)):
        unpack(pack(digest(0), digest(1), {}), digest(2))


def test_flips_in_a_store_are_noticed_wherever_they_are(tmp_path, caplog):
    """In shards: one warning that names file and key, and the entry is computed again. In indexes: it is lost."""
    rng, made, expected = np.random.default_rng(1), [], np.arange(40.0)
    for number in range(40):
        folder, key = tmp_path / str(number), digest(number)
        Store(str(folder)).save(key, {"x": expected}, SETTINGS)
        path, place = place_of(folder, key)
        in_index = number % 4 == 0
        if in_index:
            flip(path.with_suffix(".index"), LINE.size + int(rng.integers(LINE.size)), number % 8)
        else:
            flip(path, place.offset + int(rng.integers(place.length)), number % 8)
        caplog.clear()

        def compute(items, made=made):
            made.extend(items)
            return [{"x": expected} for _ in items]

        for _ in range(2):
            ((_, entry),) = Store(str(folder)).share([number], digest, compute, SETTINGS)
            np.testing.assert_array_equal(entry["x"], expected)
        told = [line for line in caplog.messages if key in line and str(path) in line]
        assert len(told) == len(caplog.messages) == (not in_index), number
    assert made == list(range(40))
