"""The synthetic dataset as an experiment sees it."""

from __future__ import annotations

import numpy as np
import pytest

from refexp.data.synthetic import SyntheticDataset
from refexp.errors import RefexpError


def test_splits_differ_and_follow_the_seed():
    data = SyntheticDataset(seed=1, references=3, targets=2, classes=["leaf", "cookie"]).load()
    again = SyntheticDataset(seed=1, references=3, targets=2, classes=["leaf", "cookie"]).load()
    other = SyntheticDataset(seed=2, references=3, targets=2, classes=["leaf", "cookie"]).load()
    assert data.classes == ("leaf", "cookie")
    assert (len(data.references.images), len(data.targets.images)) == (3, 2)
    record = data.targets.images[1]
    np.testing.assert_array_equal(data.targets.read(record), again.targets.read(record))
    assert data.targets.fingerprint(record) == again.targets.fingerprint(record)
    assert data.targets.fingerprint(record) != other.targets.fingerprint(record)
    assert data.targets.fingerprint(record) != data.references.fingerprint(record)
    assert "SYNTHETIC" in data.targets.source


def test_unknown_class_is_named():
    with pytest.raises(RefexpError, match=r"dataset\.classes: unknown class 'laef'. Did you mean 'leaf'"):
        SyntheticDataset(classes=["laef"])
