"""What a user reads when something fails: one short line, whatever the names and values in it."""

from __future__ import annotations

import pickle

import pytest

from refexp.errors import LONGEST, MissingData, RefexpError, did_you_mean, place, reason, shown


@pytest.mark.parametrize("sign", ["\n", "\r", "\x1b", "\0", "\x85", "\u2028", "\u202e", "\ud83d"])
def test_no_sign_of_a_name_breaks_the_line(sign):
    said = str(RefexpError(f"a{sign}b: no such file; check the name."))
    assert said.isprintable() and said.startswith("a\\") and said.endswith("b: no such file; check the name.")


def test_a_long_message_keeps_its_hint():
    hint = "Rename the class."
    said = str(RefexpError(f"refs.json: the class '{'x' * 5000}' is empty. {hint}"))
    assert said.startswith("refs.json: the class 'xxx") and said.endswith(f"xxx' is empty. {hint}")
    assert len(said.removesuffix(hint)) == LONGEST
    assert len(str(RefexpError("x" * 5000))) == LONGEST
    short = f"{'x' * (LONGEST - 10)}. Do this"
    assert str(RefexpError(short)) == short


def test_messages_survive_pickling():
    assert str(pickle.loads(pickle.dumps(MissingData("a\nb")))) == "a\\nb"


@pytest.mark.parametrize("value", ["x" * 1000, ["x" * 1000] * 1000, {"a": [[[[[[[[1]]]]]]]] * 99}, "\n" * 100, 5])
def test_values_are_short(value):
    assert 0 < len(shown(value)) <= 80 and shown(value).isprintable()
    assert shown("short") == "short" and shown("abcdefghij0123456789", 15) == "abcde ... 56789"


def test_a_reason_says_where_only_if_nobody_expected_it():
    def failing(error):
        try:
            raise error
        except Exception as caught:
            return reason(caught)

    assert failing(RefexpError("a: b")) == "a: b"
    assert failing(FileNotFoundError(2, "No such file", "x\ny")) == "x\\ny: No such file"
    assert failing(KeyError("a")).startswith("KeyError: 'a' (test_errors.py, line ")


def test_the_place_of_an_error_is_not_in_a_library():
    with pytest.raises(ValueError, match="substring") as caught:
        __import__("json").loads("{}", object_pairs_hook=lambda pairs: "".index("x"))
    assert place(caught.value).filename == __file__


def test_choices_are_short_lines():
    said = did_you_mean("cta", ["cat", "a\nb", "x" * 500])
    assert said.startswith("Did you mean 'cat'? Choices: cat, a\\nb, xxx") and len(said) < 150
