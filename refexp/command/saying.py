"""What a command says: in one line, on any terminal."""

from __future__ import annotations

import copy
import io
import logging
import platform
import sys
from importlib.metadata import distributions

from refexp import __version__
from refexp.errors import is_ours, place, reason


def any_terminal() -> None:
    """Escape what the terminal cannot write, such as Chinese names without UTF-8. Otherwise printing raises."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def bug(error: BaseException, kept: str) -> str:
    """Say in one line that an exception is a bug, and whose. kept: where its traceback is."""
    frame = place(error)
    if frame and not is_ours(frame):
        return f"{reason(error)}. This code is not part of refexp: look at {kept}."
    torch = next((found.version for found in distributions(name="torch")), "missing")
    versions = f"refexp {__version__}, Python {platform.python_version()}, torch {torch}"
    return f"{reason(error)}. This is a bug of refexp: report it with {kept} to the maintainers of refexp ({versions})."


class OneLine(logging.Formatter):
    """Formats records for the terminal, without tracebacks. run.log has them."""

    def format(self, record: logging.LogRecord) -> str:
        record = copy.copy(record)
        record.exc_info = record.exc_text = None
        return super().format(record)
