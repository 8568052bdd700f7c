"""Read and write files atomically: a reader never sees an incomplete file, even after a killed job."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refexp.errors import UNSAFE, RefexpError, first_line

if TYPE_CHECKING:
    from PIL import Image

LONGEST = 230
"""Bytes of a file name made of a foreign name. File systems take 255, with the suffix and as a temporary name."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder. It replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically. Lone surrogates, which no file can hold, are escaped."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Write strict JSON (no NaN) atomically."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False))


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV atomically."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_picture(path: Path, picture: Image.Image, **options: Any) -> None:
    """Write a picture atomically. options: those of PIL."""
    with atomic_path(path) as temporary:
        picture.save(temporary, **options)


def write_packed(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically, compressed if the name ends with .gz."""
    if path.suffix != ".gz":
        return write_text(path, text)
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), compresslevel=6, mtime=0))  # the same bytes at any time


def finite(content: Any) -> Any:
    """Return JSON content with the numbers that JSON lacks as texts: "NaN", "Infinity" and "-Infinity"."""
    return json.loads(json.dumps(content), parse_constant=str)


def read_json(path: Path) -> Any:
    """Read a JSON file, compressed or not. Returns None if it does not exist. Raises RefexpError if it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        return json.loads((gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8"))
    except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
        raise RefexpError(f"{path} is damaged ({first_line(error)}); restore it or remove it.") from None


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex. It is cached in the process until size or time of the file change."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


def digest(path: Path, kind: str) -> str:
    """Return the hash of a file in hex. kind: "sha256" or "md5"."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(1 << 22), b""):
            digest.update(piece)
    return digest.hexdigest()


@lru_cache(maxsize=1 << 16)
def _sha256(path: Path, size: int, modified: int) -> str:
    """Hash a file. Size and time are the keys of the cache."""
    return digest(path, "sha256")


def as_path(name: object) -> str:
    """Convert an image id to a relative output path. Folders stay, and the path cannot leave the output folder."""
    return "/".join("_" if part in ("", ".", "..") else as_file_name(part) for part in str(name).split("/"))


def as_file_name(name: str) -> str:
    """Return a name that any file system takes: what it refuses is replaced, and at most `LONGEST` bytes are kept.

    A changed name ends with a hash of the original, so that two names do not become one.
    """
    encoding = sys.getfilesystemencoding()
    allowed = UNSAFE.sub("_", name).encode(encoding, "replace")
    if len(allowed) <= LONGEST and allowed.decode(encoding) == name:
        return name
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{allowed[: LONGEST - 9].decode(encoding, 'ignore')}-{mark}"
