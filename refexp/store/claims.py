"""Claims: small files that prevent two jobs from computing the same entry. They need no clock and no hard links.

    DIR/claims/KEY.0    the claim of the first job; KEY.1 that of a job that took over after the first died, and so on

A file is created exclusively, so only one job gets it, also when several want to take over. A job touches its claims
every few seconds. A waiting job checks whether the file changes, and measures the time with the monotonic clock of its
own process, so the clocks of other machines do not matter. A claim is abandoned if its process has ended on this
machine (and in this container), if it has not changed for `timeout`, or if it is not a claim at all.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import secrets
import socket
import stat
import threading
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from refexp.machine.processes import is_alive, pid_space

log = logging.getLogger(__name__)

OWNER = re.compile(r"process (\d{1,9}) on (\S{1,255}) since (\S{1,40}), ([0-9a-f]{8})[0-9a-f]{8}")
GRACE_SECONDS = 1.0
"""Time after which a file that names no owner counts as abandoned. Writing the owner takes only milliseconds."""
BEAT_SECONDS = 10.0
"""Maximum time between two heartbeats of a claim."""
POLL_SECONDS = 0.2
"""Time between two looks at entries that other jobs compute."""
SILENT_SECONDS, REPEAT_SECONDS = 5.0, 120.0
"""Time after which a job says for whom it waits, and after which it says so again."""
NOT_NOW = (errno.ESTALE, errno.EBUSY, errno.EINTR)
Sight = tuple[int, bytes]
"""What a job sees of a claim: when it changed, by the file system's clock, and what it says."""


class Claims:
    """The claims of a store in a folder. timeout: seconds without a heartbeat after which a claim is abandoned."""

    def __init__(self, folder: Path, timeout: float) -> None:
        self.folder, self.timeout = folder / "claims", timeout
        self.held: dict[Path, bytes] = {}
        self.seen: dict[Path, tuple[Sight, float]] = {}
        self.lock = threading.Lock()
        self.heart: threading.Thread | None = None

    def take(self, key: str) -> Path | None:
        """Claim the entry. Returns the claim, or None if another job has it. Raises OSError if it cannot be written."""
        reason = ""
        for generation in count():
            path = self.folder / f"{key}.{generation}"
            if self._create(path):
                if reason:
                    log.warning("store entry %s is taken over: %s", key, reason)
                return path
            found = self._why_abandoned(path)
            # Whoever made the next claim has seen that this one is abandoned.
            if not found and not os.path.lexists(self.folder / f"{key}.{generation + 1}"):
                return None
            reason = found or reason
        return None

    def release(self, claim: Path) -> None:
        """End a claim, and remove those that it took over. Never raises: the work is done."""
        with self.lock:
            text = self.held.pop(claim, b"")
        name, _, generation = claim.name.rpartition(".")
        for number in range(int(generation) + 1):
            path = self.folder / f"{name}.{number}"
            expected = text if path == claim else self.seen.pop(path, ((0, b""), 0.0))[0][1]
            with suppress(OSError):
                # After a timeout, the file can belong to another job.
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                elif _look(path)[1] == expected:
                    path.unlink()

    def owner(self, key: str) -> tuple[str, Path]:
        """Return who holds the claim of an entry, `process 7 on node8 since ...`, and the file."""
        last = "an unknown process", self.folder / f"{key}.0"
        for generation in count():
            path = self.folder / f"{key}.{generation}"
            try:
                _, text = _look(path)
            except OSError:
                return last
            match = OWNER.fullmatch(text.decode(errors="replace"))
            last = (match[0].rpartition(",")[0] if match else "an unknown process", path)
        return last

    def _create(self, path: Path) -> bool:
        """Create a claim of this process. Returns False if the file exists."""
        since = time.strftime("%Y-%m-%dT%H:%M:%S%z")  # only for people: no decision rests on it
        mark = pid_space() + secrets.token_hex(4)
        text = f"process {os.getpid()} on {socket.gethostname()} since {since}, {mark}".encode()
        try:
            file = path.open("xb", buffering=0)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return self._create(path)
        except OSError as error:
            if isinstance(error, FileExistsError) or error.errno in NOT_NOW:
                return False
            raise
        try:
            with file:
                file.write(text)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self.lock:
            self.held[path] = text
            if self.heart is None or not self.heart.is_alive():  # a fork has no threads of its parent
                self.heart = threading.Thread(target=self._beat, name="store-heartbeat", daemon=True)
                self.heart.start()
        return True

    def _beat(self) -> None:
        """Touch the claims of this process until it holds none."""
        while True:
            time.sleep(min(BEAT_SECONDS, self.timeout / 4))
            with self.lock:
                held = dict(self.held)
                if not held:
                    self.heart = None
                    return
            for path, text in held.items():
                with suppress(OSError):
                    if _look(path)[1] == text:
                        _touch(path, text)

    def _why_abandoned(self, path: Path) -> str:
        """Return why nobody works under this claim. "" if somebody may."""
        try:
            sight = _look(path)
        except FileNotFoundError:
            return ""  # it was released just now, so the next round tries again
        except OSError as error:  # ESTALE, for example
            sight = 0, f"{error.strerror}".encode()
        now = time.monotonic()
        before, since = self.seen.get(path, (None, now))
        if sight != before:
            since = now
            self.seen[path] = sight, now
        owner = OWNER.fullmatch(sight[1].decode(errors="replace"))
        if owner is None:
            return f"{path} names no owner" if now - since >= min(GRACE_SECONDS, self.timeout) else ""
        who = f"process {owner[1]} on {owner[2]}"
        if (owner[2], owner[4]) == (socket.gethostname(), pid_space()) and not is_alive(int(owner[1])):
            return f"{who} has ended"
        return f"{who} has shown no heartbeat for {now - since:.0f} s" if now - since >= self.timeout else ""


class Patience:
    """Waits for the entries of other jobs, and says for whom."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self.start: float | None = None
        self.said = 0.0

    def over(self) -> None:
        """Note that there was progress."""
        self.start = None

    def wait(self, key: str, count: int) -> None:
        """Wait a moment for `count` entries, `key` among them."""
        now = time.monotonic()
        if self.start is None:
            self.start, self.said = now, now - REPEAT_SECONDS + SILENT_SECONDS
        if now - self.said >= REPEAT_SECONDS:
            self.said = now
            owner, path = self.claims.owner(key)
            log.warning(
                "store entry %s: waiting for %s, which computes it%s. "
                "To compute it here instead, stop that process, or delete %s.",
                key, owner, f" (and for {count - 1} more entries)" if count > 1 else "", path,
            )  # fmt: skip
        time.sleep(POLL_SECONDS)


def _touch(path: Path, text: bytes) -> None:
    """Let the time of a claim change. Raises OSError."""
    try:
        os.utime(path)
    except OSError:  # some file systems of object stores refuse that
        with path.open("r+b") as file:
            file.write(text)


def _look(path: Path) -> Sight:
    """Return when a claim changed and what it says. What is not a file says nothing. Raises OSError."""
    status = path.lstat()  # a link may point nowhere, and opening a pipe would wait for a writer
    if not stat.S_ISREG(status.st_mode):
        return status.st_mtime_ns, b""
    with path.open("rb") as file:
        return status.st_mtime_ns, file.read(1000)
