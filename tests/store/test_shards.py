"""Shards: one writer each, any number of readers, and nothing lost but what a killed writer had not finished."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from runs import refexp
from stores import flip, place_of, records, save_old

from refexp.errors import RefexpError
from refexp.store import repack as repack_module
from refexp.store import shards as shards_module
from refexp.store import upkeep
from refexp.store.entries import Store, digest
from refexp.store.repack import repack, shard_files
from refexp.store.shards import ENTRY, LINE, Line, Place

MADE_BY = {"kind": "test"}


def value(number: int) -> dict[str, np.ndarray]:
    return {"x": np.full(100, number)}


def filled(folder, count: int) -> Store:
    store = Store(str(folder))
    for number in range(count):
        store.save(digest(number), value(number), MADE_BY)
    return store


def found(folder, count: int) -> list[int]:
    """The numbers whose entries a new process would find; each must be right."""
    store, there = Store(str(folder)), []
    for number in range(count):
        entry = store.load(digest(number))
        if entry is not None:
            np.testing.assert_array_equal(entry["x"], value(number)["x"])
            there.append(number)
    return there


def test_readers_see_what_others_add(tmp_path):
    reader, first, second = (Store(str(tmp_path)) for _ in range(3))
    assert reader.load(digest(0)) is None
    for number, writer in enumerate((first, second, first)):
        writer.save(digest(number), value(number), MADE_BY)
        assert reader.load(digest(number))["x"][0] == number
    assert len(shard_files(tmp_path)) == 2
    assert reader.size(digest(5)) is None and reader.size(digest(2)) > 800


def test_settings_are_written_once_a_shard(tmp_path):
    store = Store(str(tmp_path))
    for number in range(6):
        store.save(digest(number), value(number), {"kind": "test", "text": "o" * 1000, "parity": number % 2})
    (path,) = shard_files(tmp_path)
    assert path.read_bytes().count(b"o" * 1000) == 2


def test_a_shard_is_full_at_some_time(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MAX_ENTRIES", 4)
    filled(tmp_path, 10)
    assert len(shard_files(tmp_path)) == 4  # each begins with its settings
    monkeypatch.setattr(shards_module, "MAX_BYTES", 1)
    filled(tmp_path / "small", 3)
    assert len(shard_files(tmp_path / "small")) == 3
    assert found(tmp_path, 10) == list(range(10))


def test_a_forked_process_writes_to_a_shard_of_its_own(tmp_path):
    store = filled(tmp_path, 1)
    child = multiprocessing.get_context("fork").Process(target=store.save, args=(digest(1), value(1), MADE_BY))
    child.start()
    child.join()
    store.save(digest(2), value(2), MADE_BY)
    assert len(shard_files(tmp_path)) == 2
    assert found(tmp_path, 3) == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["shard", "index"])
@pytest.mark.parametrize("cut", [1, 7, 60, LINE.size, 900])
def test_a_torn_tail_loses_the_last_entry_alone(tmp_path, suffix, cut, caplog):
    filled(tmp_path, 5)
    (path,) = shard_files(tmp_path)
    path = path.with_suffix(f".{suffix}")
    os.truncate(path, path.stat().st_size - min(cut, LINE.size if suffix == "index" else cut))
    assert found(tmp_path, 5) == [0, 1, 2, 3]
    assert len(caplog.messages) == (suffix == "shard")
    heir = Store(str(tmp_path))
    heir.save(digest(4), value(4), MADE_BY)
    assert found(tmp_path, 5) == [0, 1, 2, 3, 4]


def test_garbage_after_the_last_record_is_ignored(tmp_path):
    filled(tmp_path, 3)
    for path in (tmp_path / "shards").iterdir():
        with path.open("ab") as file:
            file.write(b"\xff" * 1000)
    assert found(tmp_path, 3) == [0, 1, 2]
    assert refexp("store", "--dir", tmp_path, "verify") == 0


def write_for_ever(folder: str) -> None:
    for number in range(1_000_000):
        Store.save(STORE.setdefault(folder, Store(folder)), digest(number), value(number), MADE_BY)


STORE: dict[str, Store] = {}


def test_a_killed_writer_leaves_whole_entries(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / str(number)
        writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(str(folder),))
        writer.start()
        while not shard_files(folder):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        writer.kill()
        writer.join()
        there = found(folder, 10_000 if number == 0 else 100)
        assert there == list(range(len(there)))
        assert refexp("store", "--dir", folder, "verify") == 0


def test_a_failed_write_leaves_the_shard_usable(tmp_path, monkeypatch):
    """A full disk: the entry is refused by name, and the next one takes its place."""
    store = filled(tmp_path, 2)
    (path,) = shard_files(tmp_path)

    def half(self, line):
        with path.with_suffix(".index").open("ab") as file:
            file.write(line.packed()[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(shards_module.Writer, "write_line", half)
        with pytest.raises(RefexpError, match=r"store\.dir: cannot write to .*No space"):
            store.save(digest(2), value(2), MADE_BY)
    store.save(digest(3), value(3), MADE_BY)
    store.save(digest(4), value(4), MADE_BY)
    assert found(tmp_path, 5) == [0, 1, 3, 4]
    assert len(records(tmp_path)) == 4


def test_a_lost_index_is_written_again(tmp_path, capsys):
    filled(tmp_path, 5)
    (path,) = shard_files(tmp_path)
    path.with_suffix(".index").unlink()
    assert found(tmp_path, 5) == []
    assert refexp("store", "--dir", tmp_path, "verify") == 0
    assert "restored: 6 records" in capsys.readouterr().out
    assert found(tmp_path, 5) == [0, 1, 2, 3, 4]
    assert refexp("store", "--dir", tmp_path, "ls") == 0
    assert "kind=test" in capsys.readouterr().out
    assert refexp("store", "--dir", tmp_path, "verify") == 0
    assert "restored" not in capsys.readouterr().out


def test_damage_costs_no_other_entry(tmp_path, capsys):
    """A flipped bit in the length of a record, and a damaged line: the records after it are found."""
    filled(tmp_path, 5)
    path, place = place_of(tmp_path, digest(1))
    flip(path, place.offset + 80, 3)
    flip(path.with_suffix(".index"), LINE.size * 4 + 20)
    assert found(tmp_path, 5) == [0, 2, 4]
    assert refexp("store", "--dir", tmp_path, "verify", "--delete") == 0
    assert found(tmp_path, 5) == [0, 2, 3, 4]
    assert len(records(tmp_path)) == 4
    assert refexp("store", "--dir", tmp_path, "verify") == 0


def test_a_writer_survives_pruning(tmp_path):
    store = filled(tmp_path, 3)
    other = Store(str(tmp_path))
    assert other.load(digest(0)) is not None
    (path,) = shard_files(tmp_path)
    _, kept = place_of(tmp_path, digest(1))
    os.utime(path, (0, 0))
    repack(path, lambda offset: offset == kept.offset)
    store.save(digest(3), value(3), MADE_BY)
    assert found(tmp_path, 4) == [1, 3]
    other.refresh()
    assert [other.size(digest(number)) is None for number in range(4)] == [True, False, True, False]
    assert [other.load(digest(number)) is None for number in range(4)] == [True, False, True, False]
    assert sorted(path.stat().st_mtime > 0 for path in shard_files(tmp_path)) == [False, True]
    assert refexp("store", "--dir", tmp_path, "prune", "--older-than", "1") == 0
    assert found(tmp_path, 4) == [3]
    shutil.rmtree(tmp_path)
    store.save(digest(4), value(4), MADE_BY)
    assert found(tmp_path, 5) == [4]


class Gone:
    """A file that was deleted after it was listed."""

    name = f"{'0' * 16}.index"

    def is_file(self):
        return True

    def stat(self):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")


def test_a_listing_beside_other_processes_loses_nothing(tmp_path, monkeypatch):
    """It can miss a shard that is being created, and name an index that is being deleted."""
    filled(tmp_path, 2)
    true, listings = os.scandir, []

    @contextmanager
    def listed(folder):
        with true(folder) as listing:
            listings.append(folder)
            yield [Gone(), *(file for file in listing if len(listings) > 1 or not file.name.endswith(".shard"))]

    monkeypatch.setattr(os, "scandir", listed)
    assert found(tmp_path, 2) == [0, 1]
    assert len(listings) == 2


NOT_SHARDS = ["copy of x", "ab", "0123456789abcdef (copy)", "0123456789ABCDEF", ".0123456789abcdef", "g" * 16, "ü"]


def test_files_with_other_names_are_left_alone(tmp_path, capsys):
    filled(tmp_path, 3)
    (path,) = shard_files(tmp_path)
    copies = [path.with_name(f"{name}.{suffix}") for name in NOT_SHARDS for suffix in ("shard", "index")]
    for copy in copies:
        shutil.copy(path.with_suffix(copy.suffix), copy)
    assert found(tmp_path, 3) == [0, 1, 2]
    assert [refexp("store", "--dir", tmp_path, *words) for words in (["ls"], ["verify", "--delete"])] == [0, 0]
    assert "restored" not in capsys.readouterr().out
    assert refexp("store", "--dir", tmp_path, "prune", "--all") == 0
    assert found(tmp_path, 3) == [] and all(copy.exists() for copy in copies)


def replace(path, kind: str) -> None:
    """Put something else in the place of a file."""
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "nothing":
        path.symlink_to(path.name if kind == "link to itself" else "nowhere")


@pytest.mark.parametrize("kind", ["nothing", "folder", "link to itself", "link to nowhere"])
@pytest.mark.parametrize("suffix", ["shard", "index"])
def test_what_is_not_a_file_any_more_is_computed_again(suffix, kind, tmp_path, capsys):
    store, other = filled(tmp_path, 3), Store(str(tmp_path))
    assert other.load(digest(0)) is not None
    (path,) = shard_files(tmp_path)
    replace(path.with_suffix(f".{suffix}"), kind)
    assert found(tmp_path, 3) == []
    assert Store(str(tmp_path)).size(digest(1)) is None
    assert refexp("store", "--dir", tmp_path, "ls") == 0
    assert "0 entries" in capsys.readouterr().out
    assert refexp("store", "--dir", tmp_path, "verify") == (suffix == "shard")
    assert refexp("store", "--dir", tmp_path, "verify", "--delete") == 0
    assert refexp("store", "--dir", tmp_path, "verify") == 0
    assert found(tmp_path, 3) == ([] if suffix == "shard" else [0, 1, 2])
    store.save(digest(4), value(4), MADE_BY)
    assert found(tmp_path, 5)[-1] == 4
    assert refexp("store", "--dir", tmp_path, "prune", "--all") == 0
    assert found(tmp_path, 5) == []


def test_an_index_without_end_is_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "MAX_INDEX", 1 << 16)
    filled(tmp_path, 3)
    (path,) = shard_files(tmp_path)
    os.truncate(path.with_suffix(".index"), 1 << 40)
    assert found(tmp_path, 3) == [0, 1, 2]
    assert refexp("store", "--dir", tmp_path, "verify") == 0


def test_a_line_that_asks_for_more_memory_than_there_is(tmp_path, caplog):
    filled(tmp_path, 1)
    (path,) = shard_files(tmp_path)
    os.truncate(path, 1 << 43)
    with path.with_suffix(".index").open("ab") as file:
        file.write(Line(ENTRY, digest(1), Place(path.stem, 0, 1 << 42, "0" * 64)).packed())
    assert found(tmp_path, 2) == [0]
    assert "is damaged and is computed again" in caplog.text


def test_prune_deletes_every_copy_of_an_entry(tmp_path, capsys):
    """Two jobs computed the same, as when one was stopped for longer than the others waited."""
    for _ in range(3):
        filled(tmp_path, 2)
    assert refexp("store", "--dir", tmp_path, "prune", "--made-by", "kind=test") == 0
    assert "2 entries deleted" in capsys.readouterr().out
    assert found(tmp_path, 2) == [] and records(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ESTALE])
def test_a_writer_whose_shard_is_deleted_time_and_again(code, tmp_path, monkeypatch):
    store, true, refusals = filled(tmp_path, 1), Path.open, iter([code] * 5)

    def gone(self, mode="r", *rest, **more):
        if mode == "r+b" and (refused := next(refusals, None)):
            raise OSError(refused, os.strerror(refused))
        return true(self, mode, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", gone)
        store.save(digest(1), value(1), MADE_BY)
    assert found(tmp_path, 2) == [0, 1]
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
    with pytest.raises(RefexpError, match=r"store\.dir: cannot write to"):
        store.save(digest(2), value(2), MADE_BY)


@pytest.mark.parametrize("words", [["ls"], ["verify", "--delete"], ["prune", "--made-by", "kind"], ["prune", "--all"]])
def test_upkeep_goes_on_when_others_delete_files(words, tmp_path, monkeypatch):
    filled(tmp_path, 2)
    claim = tmp_path / "claims" / f"{'0' * 64}.0"
    claim.parent.mkdir()
    claim.symlink_to("nowhere")
    true = upkeep.shard_files
    gone = tmp_path / "shards" / f"{'0' * 16}.shard"
    monkeypatch.setattr(upkeep, "shard_files", lambda folder: [gone, *true(folder)])
    assert refexp("store", "--dir", tmp_path, *words) == 0
    assert found(tmp_path, 2) == ([] if words[0] == "prune" else [0, 1])


def test_verify_goes_on_where_the_disk_cannot_be_read(tmp_path, monkeypatch, capsys):
    filled(tmp_path, 4)
    path, place = place_of(tmp_path, digest(1))
    bad = range(place.offset + 64, place.offset + 128)

    def broken(true):
        def read(file, what, start):
            count = what if isinstance(what, int) else sum(map(len, what))
            if start < bad.stop and start + count > bad.start:
                raise OSError(errno.EIO, "Input/output error")
            return true(file, what, start)

        return read

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken(os.pread))
        patch.setattr(os, "preadv", broken(os.preadv))
        patch.setattr(repack_module, "PIECE", 256)
        assert refexp("store", "--dir", tmp_path, "verify") == 1
        assert f"damaged: {path}, entry {digest(1)}" in capsys.readouterr().out
        assert refexp("store", "--dir", tmp_path, "verify", "--delete") == 0
    assert not path.exists()
    assert found(tmp_path, 4) == [0, 2, 3]


def test_a_disk_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    filled(tmp_path, 1)
    (path,) = shard_files(tmp_path)

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(RefexpError, match=f"cannot read .*{path.name}: Input/output error"):
        found(tmp_path, 1)


def test_a_read_only_store_is_read(tmp_path, monkeypatch, caplog):
    filled(tmp_path, 2)
    path, place = place_of(tmp_path, digest(1))
    flip(path, place.offset + 100)

    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shards_module.Writer, "_begin", refuse)
    store = Store(str(tmp_path))
    assert store.load(digest(0)) is not None
    assert store.load(digest(1)) is None and store.load(digest(1)) is None
    assert len(caplog.messages) == 1


def test_a_second_kind_of_record_joins_later(tmp_path):
    """Room for patch tokens: under a key made of the entry's, without computing the entry again."""
    store = filled(tmp_path, 1)
    tokens = np.ones((37 * 37, 8), dtype=np.float16)
    store.save(digest([digest(0), "tokens"]), {"tokens": tokens}, MADE_BY | {"kind": "tokens"})
    assert found(tmp_path, 1) == [0]
    np.testing.assert_array_equal(store.load(digest([digest(0), "tokens"]))["tokens"], tokens)


def test_thousands_of_keys_are_listed_without_reading_an_entry(tmp_path, capsys, monkeypatch):
    store = Store(str(tmp_path))
    for number in range(5000):
        store.save(digest(number), {"x": np.zeros(1)}, MADE_BY)
    monkeypatch.setattr(shards_module.Shards, "read", None)
    assert refexp("store", "--dir", tmp_path, "ls") == 0
    assert "5000 entries" in capsys.readouterr().out


def test_old_entries_are_migrated(tmp_path, capsys):
    entry = {"prototype": np.arange(5, dtype=np.float32)}
    path = save_old(tmp_path, digest(0), entry, json.dumps({"kind": "prototype"}).encode())
    broken = save_old(tmp_path, digest(1), entry)
    flip(broken, 100)
    assert refexp("store", "--dir", tmp_path, "migrate") == 1
    assert f"damaged: {broken}" in capsys.readouterr().out
    assert not path.exists() and broken.exists()
    np.testing.assert_array_equal(Store(str(tmp_path)).load(digest(0))["prototype"], entry["prototype"])
    assert refexp("store", "--dir", tmp_path, "verify", "--delete") == 0
    assert refexp("store", "--dir", tmp_path, "migrate") == 0
    assert refexp("store", "--dir", tmp_path, "ls") == 0
    assert "kind=prototype" in capsys.readouterr().out


def test_files_that_only_look_like_old_entries_are_left_alone(tmp_path, capsys):
    path = save_old(tmp_path, digest(0), {"prototype": np.arange(5, dtype=np.float32)})
    others = [path.with_name(f"{name}.npz") for name in ("abc", f"{path.stem} (copy)")]
    for other in others:
        shutil.copy(path, other)
    path.with_name(f"{digest(1)}.npz").mkdir()
    path.with_name(f"{digest(2)}.npz").symlink_to("nowhere")
    assert found(tmp_path / "empty", 1) == []
    assert Store(str(tmp_path)).load(digest(1)) is None
    for words in (["ls"], ["migrate"], ["verify", "--delete"], ["prune", "--all"]):
        assert refexp("store", "--dir", tmp_path, *words) == 0
    assert "1 entries moved" in capsys.readouterr().out
    assert not path.exists() and all(other.exists() for other in others)
