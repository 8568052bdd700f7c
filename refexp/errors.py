"""The one exception for a user's mistake: shown as a single line, without a traceback."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable
from pathlib import Path


class RefexpError(Exception):
    """What was wrong, where (config key or file), and what to do about it, in one line."""


class MissingData(RefexpError):
    """A file or folder of a data set is not there."""


class RankFailed(RefexpError):
    """Another process of this run failed or died; the message holds its traceback."""


class JobFailed(Exception):
    """A job failed, and its log says why."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`Did you mean 'x'? Choices: ...` for a word that is none of the choices."""
    names = list(choices)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return f"{hint}Choices: {shown}."


def data_command(*words: str | Path) -> str:
    """A refexp data command line that can be pasted into a shell."""
    return shlex.join(["refexp", "data", *map(str, words)])
