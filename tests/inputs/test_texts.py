"""Text and JSON files: any Unicode encoding is read, and what is not JSON is called by its name."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile

import pytest

from refexp.errors import MissingData, RefexpError
from refexp.inputs.repairs import collecting
from refexp.inputs.texts import read_json

CONTENT = {"name": "\xe9\u732b"}
TEXT = json.dumps(CONTENT, ensure_ascii=False)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_every_unicode_encoding_is_read(encoding, tmp_path):
    (tmp_path / "a.json").write_bytes(TEXT.encode(encoding))
    assert read_json(tmp_path / "a.json") == CONTENT


def archive(kind) -> bytes:
    file = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            made.writestr("a.json", TEXT)
    else:
        with tarfile.open(fileobj=file, mode="w") as made:
            made.addfile(tarfile.TarInfo("a.json"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"), (gzip.compress(TEXT.encode()), "is a gzip file"), (archive("zip"), "is a zip arch"),
        (archive("tar"), "is a tar archive"), (b"<!DOCTYPE html><html>", "is a web page"), (b"\n <HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"), (b"\x80\x04\x95", "is a pickle"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"), (bytes(100), "is a file of zero bytes"), (b"hello", "not valid JSON"),
        (TEXT.encode("latin-1", "replace"), "is not UTF-8 .*; save it as UTF-8"),
        (b"[" * 100_000, "nested too deep"), (b'{"a": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b'{"a": 1}\n{"a": 2}\n', "JSON Lines"), (b'{"a": 1,\n "b": }', "not valid JSON .*line 2, column 7"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_json_is_called_by_its_name(data, message, tmp_path):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(RefexpError, match=message) as caught:
        read_json(tmp_path / "a.json")
    assert len(str(caught.value)) < 300


def test_a_folder_and_nothing(tmp_path):
    with pytest.raises(MissingData, match="is a folder"):
        read_json(tmp_path)
    with pytest.raises(MissingData, match="file not found"):
        read_json(tmp_path / "none.json")


def test_numbers_that_json_lacks_are_null_and_counted(tmp_path):
    (tmp_path / "a.json").write_text('{"a": NaN, "b": [1, -Infinity]}')
    with collecting() as repairs:
        assert read_json(tmp_path / "a.json") == {"a": None, "b": [1, None]}
    assert [count for count, _ in repairs.found.values()] == [2]
