"""Claims: each entry is computed once, whatever lies in the store, whatever clocks say, and whoever dies."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stores import save_old

from refexp.machine.processes import pid_space
from refexp.store import claims as claims_module
from refexp.store.claims import Claims, Patience
from refexp.store.entries import Store, digest

KEY = "ab" * 32
HERE = socket.gethostname()


def claim_of(folder: Path, text: str | bytes, age: float = 100.0) -> Path:
    """A claim that somebody left, so many seconds ago by this machine's clock."""
    path = folder / "claims" / f"{KEY}.0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(path, (time.time() - age,) * 2)
    return path


def owner(pid: int, host: str = "node7", space: str = "0" * 8) -> str:
    return f"process {pid} on {host} since 2020-01-01T00:00:00+0000, {space}{'0' * 8}"


def compute(folder: Path, timeout: float = 600) -> float:
    """Obtain the entry. Returns the seconds that it took."""
    start = time.monotonic()
    store = Store(str(folder), claim_timeout=timeout)
    ((_, entry),) = store.share([0], lambda _: KEY, lambda items: [{"x": np.zeros(1)} for _ in items], {})
    assert entry["x"].shape == (1,)
    return time.monotonic() - start


MALFORMED = {
    "one word": b"node7",
    "host and pid": b"node7 12",
    "three words": b"my node 7",
    "a number of 20 digits": owner(10**19).encode(),
    "no text": b"\xff\xfe\x00",
    "cut short": owner(12).encode()[:30],
    "empty": b"",
    "long": b"x" * 100_000,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("age", [100, -86400], ids=["old", "of the future"])
def test_what_is_not_a_claim_is_taken_over(text, age, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(claims_module, "GRACE_SECONDS", 0.1)
    claim_of(tmp_path, text, age)
    assert compute(tmp_path) < 2
    assert "names no owner" in caplog.text and KEY in caplog.text
    assert not list((tmp_path / "claims").iterdir())


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_in_place_of_a_claim_is_taken_over(empty, tmp_path):
    path = tmp_path / "claims" / f"{KEY}.0"
    path.mkdir(parents=True)
    if not empty:
        (path / "file").write_text("")
    assert compute(tmp_path) < 3
    assert path.exists() != empty


@pytest.mark.parametrize("kind", ["pipe", "link to nowhere", "link to itself", "link to a folder"])
def test_what_is_not_a_file_is_taken_over(kind, tmp_path, monkeypatch):
    """Opening a pipe would wait for a writer, and what is behind a link may not be there."""
    monkeypatch.setattr(claims_module, "GRACE_SECONDS", 0.1)
    path = claim_of(tmp_path, "")
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"link to nowhere": "nowhere", "link to itself": path.name, "link to a folder": ".."}[kind])
    assert compute(tmp_path) < 2
    assert not list((tmp_path / "claims").iterdir())


def test_of_many_claims_that_took_over_only_the_last_counts(tmp_path):
    """Each job that took over was killed, too."""
    path = claim_of(tmp_path, owner(12))
    for generation in range(1, 20):
        path.with_suffix(f".{generation}").write_text(owner(12 + generation))
    assert 0.5 <= compute(tmp_path, timeout=0.5) < 3
    assert not list((tmp_path / "claims").iterdir())


def test_a_process_of_a_container_with_the_same_host_name_is_alive_as_long_as_its_heartbeat(tmp_path, caplog):
    """Its number says nothing here, where no process or another one has it."""
    victim = subprocess.Popen([sys.executable, "-c", ""])
    victim.wait()
    claim_of(tmp_path, owner(victim.pid, HERE))
    assert 0.5 <= compute(tmp_path, timeout=0.5) < 3
    assert "has shown no heartbeat for" in caplog.text


@pytest.mark.parametrize("age", [100, -86400], ids=["old", "of the future"])
def test_a_claim_of_another_host_without_a_heartbeat_is_taken_over(age, tmp_path, caplog):
    """By the time that passes here: how old the file is, or what the other host's clock says, does not matter."""
    path = claim_of(tmp_path, owner(12), age)
    assert 0.5 <= compute(tmp_path, timeout=0.5) < 3
    assert "process 12 on node7 has shown no heartbeat for" in caplog.text
    assert not path.exists()


def test_a_claim_with_a_heartbeat_is_waited_for(tmp_path):
    claims, other = Claims(tmp_path, 0.4), Claims(tmp_path, 0.4)
    claim = claims.take(KEY)
    assert claim is not None
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert other.take(KEY) is None
        time.sleep(0.05)
    claims.release(claim)
    assert other.take(KEY) == claim


def test_a_claim_has_a_heartbeat_where_times_cannot_be_set(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    claims = Claims(tmp_path, 0.2)
    claim = claims.take(KEY)
    before, text = claim.stat().st_mtime_ns, claim.read_bytes()
    time.sleep(0.3)
    assert claim.stat().st_mtime_ns > before and claim.read_bytes() == text
    claims.release(claim)
    assert not claim.exists()


def test_the_heartbeat_ends_with_the_last_claim_and_begins_again(tmp_path):
    claims = Claims(tmp_path, 0.2)
    for _ in range(2):
        claim = claims.take(KEY)
        before = claim.stat().st_mtime_ns
        time.sleep(0.2)
        assert claim.stat().st_mtime_ns > before
        claims.release(claim)
        time.sleep(0.2)
        assert claims.heart is None


def test_a_claim_of_a_dead_or_zombie_process_is_taken_over_at_once(tmp_path, caplog):
    """A killed job whose parent has not asked for its end still has its number, as in containers without an init."""
    victim = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
    claim_of(tmp_path, owner(victim.pid, HERE, pid_space()))
    assert compute(tmp_path) < 1
    assert f"process {victim.pid} on {HERE} has ended" in caplog.text
    assert victim.wait() == 0
    assert not list((tmp_path / "claims").iterdir())


@pytest.mark.parametrize("method", ["open", "stat", "unlink", "is_dir"])
@pytest.mark.parametrize("code", [errno.ESTALE, errno.EBUSY, errno.EIO, errno.ENOENT])
def test_releasing_never_fails_finished_work(method, code, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    store = Store(str(tmp_path))
    with store.claim(KEY) as mine:
        assert mine
        store.save(KEY, {"x": np.zeros(1)}, {})
        monkeypatch.setattr(Path, method, fail)
    monkeypatch.undo()
    assert store.load(KEY) is not None


def test_a_server_that_says_not_now_is_asked_again(tmp_path, monkeypatch):
    true, refusals = Path.open, iter([errno.ESTALE, errno.EBUSY])

    def stale(self, mode="r", *rest, **more):
        if "x" in mode and self.parent.name == "claims" and (code := next(refusals, None)):
            raise OSError(code, os.strerror(code))
        return true(self, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", stale)
    assert compute(tmp_path) < 3
    assert next(refusals, None) is None


def test_a_released_claim_of_another_job_stays(tmp_path):
    """This job was taken for dead, and another one has its claim now."""
    claims = Claims(tmp_path, 600)
    claim = claims.take(KEY)
    claim.write_text(owner(12))
    claims.release(claim)
    assert claim.read_text() == owner(12)


def test_whoever_waits_says_for_whom(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(claims_module, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(claims_module, "REPEAT_SECONDS", 0.9)
    monkeypatch.setattr(claims_module, "POLL_SECONDS", 0.02)
    path = claim_of(tmp_path, owner(12))
    patience, end = Patience(Claims(tmp_path, 600)), time.monotonic() + 1.5
    while time.monotonic() < end:
        patience.wait(KEY, 3)
    said = f"store entry {KEY}: waiting for process 12 on node7 since 2020-01-01T00:00:00+0000, which computes it (and"
    assert [line.startswith(said) for line in caplog.messages] == [True, True]
    assert caplog.messages[0].endswith(f"or delete {path}.")
    assert "for 2 more entries" in caplog.text


def test_whoever_waits_for_what_cannot_be_seen_says_so(tmp_path, monkeypatch, caplog):
    """A file server that always answers that it is busy, for example."""
    monkeypatch.setattr(claims_module, "SILENT_SECONDS", 0.0)
    Patience(Claims(tmp_path, 600)).wait(KEY, 1)
    assert f"store entry {KEY}: waiting for an unknown process" in caplog.text


def test_progress_ends_the_patience(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(claims_module, "SILENT_SECONDS", 0.2)
    claim_of(tmp_path, owner(12))
    patience = Patience(Claims(tmp_path, 600))
    for _ in range(4):
        patience.wait(KEY, 1)
        patience.over()
    assert not caplog.messages


def test_an_entry_that_is_no_archive_is_computed_again(tmp_path, caplog):
    path = save_old(tmp_path, KEY, {})
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert compute(tmp_path) < 1
    assert str(path) in caplog.text and len(caplog.messages) == 1


def job(folder: Path, count: int, delay: float, seed: int) -> None:
    """One job: obtain all entries, note each computation."""
    while not (folder / "go").exists():
        time.sleep(0.001)

    def compute(items):
        time.sleep(delay)
        with (folder / "done").open("a") as file:
            file.writelines(f"{item}\n" for item in items)
        return [{"value": np.array([item])} for item in items]

    order = list(range(count))
    random.Random(seed).shuffle(order)
    store = Store(str(folder / "store"))
    got = dict(store.share(order, digest, compute, {"kind": "test"}, batch=1 + seed % 2))
    assert {item: int(entry["value"][0]) for item, entry in got.items()} == {i: i for i in range(count)}


def run_jobs(folder: Path, jobs: int, count: int, delay: float, killed: int = 0, after: int = 0) -> list[int]:
    """Run jobs that want the same entries. Returns the numbers that were computed, sorted.

    The first jobs are killed after so many computations.
    """
    fork, done = multiprocessing.get_context("fork"), folder / "done"
    done.touch()
    running = [fork.Process(target=job, args=(folder, count, delay, number)) for number in range(jobs)]
    for process in running:
        process.start()
    (folder / "go").touch()
    while len(done.read_text().split()) < after:
        time.sleep(0.001)
    for process in running[:killed]:
        process.kill()
    for process in running:
        process.join(300)
    assert [process.exitcode for process in running[killed:]] == [0] * (jobs - killed)
    return sorted(map(int, done.read_text().split()))


def no_link(*_, **__):
    raise PermissionError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize(("jobs", "count"), [(6, 60), pytest.param(16, 1000, marks=pytest.mark.slow)])
def test_jobs_that_want_the_same_compute_each_entry_once(jobs, count, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", no_link)  # exFAT and SMB have no hard links
    assert run_jobs(tmp_path, jobs, count, 0.002) == list(range(count))
    assert not list((tmp_path / "store/claims").iterdir())


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
def test_killed_jobs_cost_no_entry_twice(seed, tmp_path):
    """Of six jobs, two are killed at a random moment. What a killed one had noted but not saved may come twice."""
    computed = run_jobs(tmp_path, 6, 60, 0.005, killed=2, after=random.Random(seed).randrange(55))
    assert set(computed) == set(range(60))
    assert len(computed) <= 60 + 1 + 2  # the batches of the two
    store = Store(str(tmp_path / "store"))
    assert all(store.load(digest(number))["value"][0] == number for number in range(60))
