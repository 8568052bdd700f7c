"""Reading ahead: the right content for each item, errors where they belong, little read for nothing."""

from __future__ import annotations

import pytest

from refexp.data.ahead import DEPTH, ReadAhead


def test_contents_in_any_order():
    items = [[i] for i in range(20)]
    ahead = ReadAhead(items, read=lambda item: item[0] * 10, wanted=lambda item: True)
    for i in (0, 1, 2, 7, 3, 4, 19, 5, 6, 18):
        assert ahead.get(items[i]) == i * 10
    ahead.close()


def test_only_wanted_items_are_read_ahead():
    read = []
    items = [[i] for i in range(10)]
    ahead = ReadAhead(items, read=lambda item: read.append(item[0]), wanted=lambda item: item[0] % 2 == 0)
    ahead.get(items[0])
    ahead.close()
    assert set(read) <= {0, 2, 4}
    assert len(read) <= 1 + DEPTH


def test_an_error_comes_with_its_own_item():
    def fail(item):
        if item == [2]:
            raise ValueError("item 2")
        return item

    items = [[i] for i in range(4)]
    ahead = ReadAhead(items, read=fail, wanted=lambda item: True)
    assert ahead.get(items[0]) == [0]
    assert ahead.get(items[1]) == [1]
    with pytest.raises(ValueError, match="item 2"):
        ahead.get(items[2])
    assert ahead.get(items[3]) == [3]
    ahead.close()


def test_items_that_others_finished_do_not_stop_it():
    items, read = [[i] for i in range(30)], []
    ahead = ReadAhead(items, read=lambda item: read.append(item[0]), wanted=lambda item: True)
    for i in (0, 10, 20):
        ahead.get(items[i])
    ahead.get(items[21])
    assert max(ahead.pending) > 21
    assert min(ahead.pending) > 20
    ahead.close()
