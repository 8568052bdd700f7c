"""The exceptions. A `RefexpError` is a user error: refexp prints it in one line, without a traceback."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path


class RefexpError(Exception):
    """A user error. Its message is one line: the config key or file, the problem, and how to fix it."""


class MissingData(RefexpError):
    """A file or folder of a data set is missing."""


class RankFailed(RefexpError):
    """Another process of this run failed or died. The message contains its traceback."""


class JobFailed(Exception):
    """A job failed. Its log contains the reason."""


def shown(value: object, limit: int = 80) -> str:
    """Return a foreign value or name as one short line: control characters escaped, the middle cut."""
    text = str(value)[: 10 * limit]
    text = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-limit // 2 + 3 :]}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `Did you mean 'x'? Choices: ...` for a word that is not one of the choices."""
    names = list(choices)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return f"{hint}Choices: {shown}."


def data_command(*words: str | Path) -> str:
    """Return a `refexp data` command line to paste into a shell."""
    return shlex.join(["refexp", "data", *map(str, words)])
