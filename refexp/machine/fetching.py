"""Download a published file: resume a partial download, check the digest, and only then move it to its place.

torch.hub and torchvision can download, but cannot resume a partial file, and the largest file has 19 GB.
"""

from __future__ import annotations

import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from refexp.errors import RefexpError
from refexp.files import digest
from refexp.machine.progress import track

PIECE = 1 << 20
"""Bytes per read, and the unit of the progress bar: 1 MiB."""
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 5
"""The download fails after this many consecutive attempts that received no byte."""
PAUSE_SECONDS = 2.0


def fetch(url: str, path: Path, kind: str, published: str | None) -> None:
    """Download a file to `path`, resuming an earlier attempt. If `path` exists, only checks it.

    kind: "sha256" or "md5". published: the expected digest of that kind; None if none is published. Raises RefexpError
    if the download fails or the digest differs.
    """
    found, part = path.is_file(), path.with_name(f"{path.name}.part")
    if not found:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive_all(url, part, path)
    current = path if found else part
    if published and digest(current, kind) != published:
        if not found:
            part.unlink()  # otherwise every further attempt would resume the damaged file
        raise RefexpError(
            f"{current} is damaged: its {kind.upper()} sum is not {published}. "
            f"{'Delete it and run' if found else 'It was deleted. Run'} the same command again, "
            f"or download {url} to {path} yourself."
        )
    current.replace(path)


def _receive_all(url: str, part: Path, path: Path) -> None:
    """Retry until the file is complete. Gives up after ATTEMPTS attempts in a row without progress."""
    failed = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part)
        except (OSError, HTTPException) as error:  # includes URLError, and time-outs
            failed = 0 if _size(part) > before else failed + 1
            if failed == ATTEMPTS or (isinstance(error, HTTPError) and 400 <= error.code < 500):
                raise RefexpError(
                    f"could not download {url}: {error}. Run the same command again to resume, "
                    f"or download the file to {path} yourself and run the command again."
                ) from None
            time.sleep(PAUSE_SECONDS)


def _receive(url: str, part: Path) -> None:
    """Request the missing bytes of `part` and append them. Raises OSError or HTTPException if the connection breaks."""
    start = _size(part)
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return  # `part` is already complete
        part.unlink()  # longer than the published file, so it is from another version
        raise ConnectionError(f"{url} has changed since the download began") from None
    # A server may ignore the range and send the whole file.
    resumed = response.status == 206
    with response, part.open("ab" if resumed else "wb") as file:
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise ConnectionError(f"{url} sent a different range than requested")
        length = int(response.headers.get("Content-Length") or 0)
        end = file.tell() + length
        pieces = iter(lambda: response.read(PIECE), b"")
        for piece in track(pieces, -(-length // PIECE), f"{part.stem}, MiB") if length else pieces:
            file.write(piece)
        # A broken connection looks like the end of the file, so compare with the announced length.
        if length and file.tell() < end:
            raise ConnectionError(f"the connection broke off after {file.tell()} of {end} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
