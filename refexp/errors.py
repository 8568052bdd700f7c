"""The exceptions. A `RefexpError` is a user error: refexp prints it in one line, without a traceback."""

from __future__ import annotations

import difflib
import re
import reprlib
import shlex
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

LONGEST, LONGEST_HINT = 300, 1000
"""Characters of a message before its hint, and of the hint. A hint may hold several long paths."""
CUT = " ... "
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Characters that end a line, steer a terminal, turn the direction of writing, or that no file can hold."""
PACKAGE = Path(__file__).parent
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib"))
HINT = re.compile(r"(.*[.;?!] )(.+)", re.DOTALL)
"""A message and its last sentence, which says what to do."""


class RefexpError(Exception):
    """A user error. Its message is one line: the config key or file, the problem, and how to fix it.

    Control characters in it are escaped, and an over-long message is cut in the middle, not in its hint.
    """

    def __str__(self) -> str:
        text = super().__str__()
        found = HINT.fullmatch(text) if len(text) > LONGEST else None
        return shown(found[1], LONGEST) + shown(found[2], LONGEST_HINT) if found else shown(text, LONGEST)


class MissingData(RefexpError):
    """A file or folder of a data set is missing."""


class RankFailed(RefexpError):
    """Another process of this run failed or died. The message contains its traceback."""

    __str__ = Exception.__str__


class JobFailed(Exception):
    """A job failed. Its log contains the reason."""


def shown(value: object, limit: int = 80) -> str:
    """Return a foreign value or name as one short line: control characters escaped, the middle cut."""
    text = UNSAFE.sub(escaped, reprlib.repr(value) if isinstance(value, (dict, list, tuple, set)) else str(value))
    if len(text) <= limit:
        return text
    end = (limit - len(CUT)) // 2
    return text[: limit - len(CUT) - end] + CUT + text[-end:]


def escaped(sign: re.Match[str]) -> str:
    r"""Return a character as Python writes it: `\n`, `\x1b`, `\ud83d`."""
    return sign[0].encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, shortened, or its type if the message is empty."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0], LONGEST)


def reason(error: BaseException) -> str:
    """Return in one line why something failed, and for an error that nobody expected where in the code."""
    if isinstance(error, RefexpError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{shown(error.filename)}: {error.strerror}" if error.filename else error.strerror
    frame = place(error)
    where = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame else ""
    return f"{type(error).__name__}: {first_line(error)}{where}"


def place(error: BaseException) -> traceback.FrameSummary | None:
    """Return where an error arose: the innermost line of refexp or of the user's own code, not of a library."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if is_ours(frame) or not any(map(Path(frame.filename).is_relative_to, LIBRARIES))]
    return next(iter((own or frames)[-1:]), None)


def is_ours(frame: traceback.FrameSummary) -> bool:
    """Whether a line of code belongs to refexp."""
    return Path(frame.filename).is_relative_to(PACKAGE)


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `Did you mean 'x'? Choices: ...` for a word that is not one of the choices."""
    names = list(choices)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.55)
    hint = f"Did you mean '{shown(close[0])}'? " if close else ""
    some = ", ".join(shown(name) for name in names[:30]) + (", ..." if len(names) > 30 else "")
    return f"{hint}Choices: {some}."


def data_command(*words: str | Path) -> str:
    """Return a `refexp data` command line to paste into a shell."""
    return shlex.join(["refexp", "data", *map(str, words)])
