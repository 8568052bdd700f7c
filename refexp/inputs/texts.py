"""Read text and JSON files: any Unicode encoding, and a true name for what is not text or JSON."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from refexp.errors import MissingData, RefexpError
from refexp.inputs.kinds import HEAD, kind_of
from refexp.inputs.repairs import repaired

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and the encodings that they announce."""


def read_text(path: Path, what: str = "file") -> str:
    """Read a text file in UTF-8, or in the encoding of its byte order mark.

    what: the role of the file in messages. Raises MissingData if it does not exist, and RefexpError with what it is
    if it is not text.
    """
    return decoded(read_bytes(path, what), path)


def read_bytes(path: Path, what: str = "file") -> bytes:
    """Read a file. Raises MissingData if it does not exist, RefexpError if it is a folder or cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise MissingData(f"{what} not found: {path}") from None
    except IsADirectoryError:
        raise MissingData(f"{what} not found: {path} is a folder; name the file in it.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise RefexpError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None


def decoded(data: bytes, path: Path) -> str:
    """Decode the content of a text file. Raises RefexpError with what the file is if it is not text."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None and (kind := kind_of(data[:HEAD])) and kind not in ("a JSON file", "an XML file"):
        raise RefexpError(f"{path} is {kind}, not a text file.")
    if encoding is None and b"\0" in data[:4]:
        encoding = json.detect_encoding(data)  # UTF-16 and UTF-32 without a mark
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        at = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise RefexpError(f"{path} is not UTF-8 ({at}); save it as UTF-8.") from None


def read_json(path: Path, what: str = "file") -> Any:
    """Read a JSON file. Raises the errors of `read_text`, and RefexpError with the position of a fault."""
    return parse_json(read_text(path, what), path)


def parse_json(text: str, path: Path) -> Any:
    """Parse JSON. NaN and Infinity, which Python writes but JSON lacks, are null, and counted.

    Raises RefexpError, with the position, for text that is not JSON or that no file needs.
    """
    constants: list[str] = []
    try:
        content = json.loads(text, parse_constant=constants.append)
        if constants:
            repaired("NaN or Infinity in a JSON file read as null", f"{path}, {constants[0]}", len(constants))
        return content
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and "\n" in text[: error.pos]:
            raise RefexpError(
                f"{path} has several JSON values, from line {error.lineno} on (JSON Lines?); join them into one."
            ) from None
        where = f"line {error.lineno}, column {error.colno}"
        raise RefexpError(f"{path} is not valid JSON ({error.msg}, {where}).") from None
    except RecursionError:
        raise RefexpError(f"{path} is not usable: its brackets are nested too deep.") from None
    except ValueError:  # Python's limit on the digits of a number
        raise RefexpError(f"{path} is not usable: it has a number of thousands of digits.") from None
