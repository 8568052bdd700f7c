"""Fetching a published file: resumed where it broke off, checked, and only then put in its place.

torch.hub and torchvision fetch too, but neither goes on with a file that it has in part, and the largest has 19 GB.
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
"""Bytes read at once, and the unit of the progress bar: 1 MiB."""
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 5
"""How often in a row a download may break off without a byte gained before it is given up."""
PAUSE_SECONDS = 2.0


def fetch(url: str, path: Path, kind: str, published: str | None) -> None:
    """Bring a file to `path`, from where an earlier attempt stopped. A file that is there is only checked.

    published: its digest of this kind, "sha256" or "md5"; None where nobody published one. Raises RefexpError: no
    connection, or another digest.
    """
    found, part = path.is_file(), path.with_name(f"{path.name}.part")
    if not found:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive_all(url, part, path)
    current = path if found else part
    if published and digest(current, kind) != published:
        if not found:
            part.unlink()  # or every further attempt would go on from it
        raise RefexpError(
            f"the {kind.upper()} sum of {current} is not {published}: the file is damaged"
            f"{'. Delete it and run' if found else ', and deleted. Run'} the same command again, "
            f"or put {url} at {path} by hand."
        )
    current.replace(path)


def _receive_all(url: str, part: Path, path: Path) -> None:
    """Try again as long as each attempt brings something."""
    failed = 0
    while True:
        before = _size(part)
        try:
            return _receive(url, part)
        except (OSError, HTTPException) as error:  # includes URLError, and time-outs
            failed = 0 if _size(part) > before else failed + 1
            if failed == ATTEMPTS or (isinstance(error, HTTPError) and 400 <= error.code < 500):
                raise RefexpError(
                    f"could not fetch {url}: {error}. The same command goes on from here; "
                    f"or fetch it by hand, put it at {path} and run the command again."
                ) from None
            time.sleep(PAUSE_SECONDS)


def _receive(url: str, part: Path) -> None:
    """One request for what `part` lacks, appended to it. Raises OSError or HTTPException if the connection breaks."""
    start = _size(part)
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return  # nothing is left to send
        part.unlink()  # longer than the file is now
        raise ConnectionError(f"{url} has changed since the download began") from None
    # A server may send everything, whatever was asked for.
    resumed = response.status == 206
    with response, part.open("ab" if resumed else "wb") as file:
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise ConnectionError(f"{url} sent another part than asked for")
        length = int(response.headers.get("Content-Length") or 0)
        end = file.tell() + length
        pieces = iter(lambda: response.read(PIECE), b"")
        for piece in track(pieces, -(-length // PIECE), f"{part.stem}, MiB") if length else pieces:
            file.write(piece)
        # A connection that is cut looks like the end of the file.
        if length and file.tell() < end:
            raise ConnectionError(f"the connection broke off after {file.tell()} of {end} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
