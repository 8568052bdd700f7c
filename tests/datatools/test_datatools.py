"""Preparing published data sets: converters, downloads from a faulty server, and the check of a data root."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import miniature
import pytest
from hydra.core.global_hydra import GlobalHydra
from miniature import read, voc_object, voc_xml, write
from runs import refexp

from refexp.data.coco import read_coco
from refexp.datatools import check, download
from refexp.datatools.download import Download
from refexp.errors import RefexpError
from refexp.files import write_json
from refexp.machine import fetching


def run(*arguments: object) -> int:
    return refexp("data", *arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    miniature.whole(root)
    return root


def test_refexp_data_is_the_same_program(tmp_path, capsys):
    words = ["check", "coco", "--root", str(tmp_path)]
    assert run(*words) == 1
    out = capsys.readouterr().out
    assert "coco: incomplete" in out
    program = [sys.executable, "-m", "refexp", "data", *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (1, out)


def test_help_waits_for_no_library():
    code = "import sys, refexp.command.group; print({'torch', 'hydra', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "set()\n"


def test_what_ends_a_command(tmp_path, capsys, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "download", interrupt)
    assert run("download", "coco", "--root", tmp_path) == 130
    assert capsys.readouterr().err.startswith("interrupted. ")
    (tmp_path / "file").write_text("")
    assert run("synthetic", tmp_path / "file") == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/file")
    assert run("subset", tmp_path / "none.json", "--images", "--out", tmp_path / "out.json") == 2
    assert run("voc2coco", tmp_path, "--years", 2007, 2013, "--set", "test", "--out", tmp_path / "out.json") == 2


# --- voc2coco


@pytest.fixture
def devkit(tmp_path) -> Path:
    miniature.voc(tmp_path)
    return tmp_path / "voc/VOCdevkit"


def test_voc_years_together(devkit, tmp_path, capsys):
    assert run("voc2coco", devkit, "--years", 2007, 2012, "--set", "trainval", "--out", tmp_path / "out.json") == 0
    assert "4 images, 42 annotations" in capsys.readouterr().out
    content = read_coco(tmp_path / "out.json")
    assert [(c["id"], c["name"]) for c in content["categories"]][::19] == [(1, "aeroplane"), (20, "tvmonitor")]
    assert [image["file_name"] for image in content["images"]] == [
        "VOC2007/JPEGImages/000005.jpg", "VOC2007/JPEGImages/000007.jpg",
        "VOC2012/JPEGImages/2007_000005.jpg", "VOC2012/JPEGImages/2008_000008.jpg",
    ]  # fmt: skip
    assert [image["id"] for image in content["images"]] == [5, 7, 2007000005, 2008000008]
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (320, 240)
    assert [annotation["id"] for annotation in content["annotations"]] == list(range(1, 43))
    assert [annotation["category_id"] for annotation in content["annotations"][:21]] == [*range(1, 21), 15]


def test_voc_boxes_and_difficult_objects(devkit, tmp_path):
    run("voc2coco", devkit, "--years", 2007, "--set", "test", "--out", tmp_path / "out.json")
    content = read(tmp_path / "out.json")
    first, last = content["annotations"][0], content["annotations"][-1]
    assert first["bbox"] == [20, 20, 40, 40]  # as drawn; in the XML it is 21, 21, 60, 60
    assert first["area"] == 1600
    assert (first["difficult"], first["iscrowd"]) == (0, 0)
    assert (last["difficult"], last["iscrowd"]) == (1, 1)
    assert sum(annotation["iscrowd"] for annotation in content["annotations"]) == 1


def test_voc_corners_touch_the_border_and_may_be_fractions(devkit, tmp_path):
    objects = voc_object("dog", [0, 0, 320, 240]) + voc_object("dog", [10.5, 0, 20.25, 5])
    write(devkit / "VOC2007/Annotations/000001.xml", voc_xml(objects + voc_object("cat", [-0.5, 3, 10, 4])))
    run("voc2coco", devkit, "--years", 2007, "--set", "test", "--out", tmp_path / "out.json")
    boxes = [annotation["bbox"] for annotation in read(tmp_path / "out.json")["annotations"][:3]]
    assert boxes == [[0, 0, 320, 240], [10.5, 0, 20.25, 5], [0, 3, 9.5, 4]]


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation><size>", "not valid XML"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "document type"),
        (voc_xml(voc_object("doge", [20, 20, 40, 40])), "'doge'. Did you mean 'dog'"),
        (voc_xml(voc_object("dog", [300, 20, 40, 40])), "extends beyond the 320 x 240 image"),
        (voc_xml(voc_object("dog", [20, 20, 0, 40])), "is empty"),
        (voc_xml(voc_object("dog", [20, 20, 40, 40]).replace("61", "x").replace("60", "x")), "must hold a number"),
        (voc_xml("", width=320).replace("<width>320</width>", ""), "<size/width> must hold a number, not None"),
    ],
)
def test_voc_mistakes_name_the_file(devkit, tmp_path, capsys, xml, message):
    write(devkit / "VOC2007/Annotations/000002.xml", xml)
    assert run("voc2coco", devkit, "--years", 2007, "--set", "test", "--out", tmp_path / "out.json") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert "VOC2007/Annotations/000002.xml" in error and message in error
    assert not (tmp_path / "out.json").exists()


def test_voc_missing_files(devkit, tmp_path, capsys):
    out = tmp_path / "out.json"
    assert run("voc2coco", devkit, "--years", 2012, "--set", "test", "--out", out) == 1
    assert "VOC2012/ImageSets/Main/test.txt" in capsys.readouterr().err
    (devkit / "VOC2007/JPEGImages/000001.jpg").unlink()
    assert run("voc2coco", devkit, "--years", 2007, "--set", "test", "--out", out) == 1
    assert "JPEGImages/000001.jpg is missing" in capsys.readouterr().err
    write(devkit / "VOC2007/ImageSets/Main/test.txt", "../../000001\n")
    assert run("voc2coco", devkit, "--years", 2007, "--set", "test", "--out", out) == 1
    assert "is not a VOC image name" in capsys.readouterr().err


# --- lvis


@pytest.fixture
def published_lvis(tmp_path) -> Path:
    miniature.lvis(tmp_path)
    return tmp_path / "lvis"


def test_lvis_gets_file_names_and_keeps_the_rest(published_lvis):
    unconverted = read_coco(published_lvis / "lvis_v1_val.json")
    assert [i["file_name"] for i in unconverted["images"]] == ["000000000400.jpg", "000000000300.jpg"]
    assert run("lvis", published_lvis / "lvis_v1_val.json") == 0
    content = read_coco(published_lvis / "lvis_v1_val_refexp.json")
    assert [i["file_name"] for i in content["images"]] == ["train2017/000000000400.jpg", "val2017/000000000300.jpg"]
    assert all(i["neg_category_ids"] == [1] and i["not_exhaustive_category_ids"] == [2] for i in content["images"])
    assert [category["frequency"] for category in content["categories"]] == list("rcfrcf")
    assert (published_lvis.parent / "coco" / content["images"][0]["file_name"]).is_file()


def test_minival_takes_masks_from_val(published_lvis):
    listed = published_lvis / "lvis_v1_minival_inserted_image_name.json"
    assert not any("segmentation" in annotation for annotation in read(listed)["annotations"])
    assert run("lvis", published_lvis / "lvis_v1_val.json", "--minival", listed) == 0
    content = read_coco(published_lvis / "lvis_v1_minival_refexp.json")
    assert [image["file_name"] for image in content["images"]] == ["val2017/000000000300.jpg"]
    assert content["images"][0]["neg_category_ids"] == [1]
    val = {annotation["id"]: annotation for annotation in read(published_lvis / "lvis_v1_val.json")["annotations"]}
    assert len(content["annotations"]) == 6
    assert all(a["segmentation"] == val[a["id"]]["segmentation"] for a in content["annotations"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content["annotations"][0].update(category_id=2), "annotation 300000 is not in"),
        (lambda content: content["annotations"][0].update(id=7), "annotation 7 is not in"),
        (lambda content: content["images"][0].update(id=7), "image 7 is not in"),
        (lambda content: content.pop("annotations"), "no list 'annotations'"),
    ],
)
def test_a_minival_of_something_else(published_lvis, capsys, spoil, message):
    listed = published_lvis / "lvis_v1_minival_inserted_image_name.json"
    content = read(listed)
    spoil(content)
    write_json(listed, content)
    assert run("lvis", published_lvis / "lvis_v1_val.json", "--minival", listed) == 1
    error = capsys.readouterr().err
    assert str(listed) in error and message in error


def test_a_file_that_is_not_lvis(published_lvis, whole, capsys):
    assert run("lvis", whole / "coco/annotations/instances_val2017.json") == 1
    assert "image 100 has no coco_url" in capsys.readouterr().err
    assert run("lvis", published_lvis / "nothing.json") == 1
    assert "refexp data download lvis" in capsys.readouterr().err


# --- download


class Site:
    """A server of `files` that breaks off its first `cuts` answers half-way; `asked` are the Range headers it got."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str | None] = []
        self.cuts, self.ranges = 0, True
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                site.asked.append(asked)
                content = site.files.get(self.path.lstrip("/"))
                start = int(asked[6:-1]) if asked and site.ranges else 0
                if content is None or start >= len(content):
                    self.send_response(404 if content is None else 416)
                    self.send_header("Content-Range", f"bytes */{len(content or b'')}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                body = content[start:]
                self.send_response(206 if asked and site.ranges else 200)
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                site.cuts -= 1
                self.wfile.write(body if site.cuts < 0 else body[: len(body) // 2])
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def publish(
        self, monkeypatch, name: str, file: str, content: bytes, makes: tuple[str, ...], md5: bool = True
    ) -> None:
        """As one more file of the data set `name`."""
        self.files[file] = content
        digest = hashlib.md5(content).hexdigest() if md5 else None
        item = Download(f"http://127.0.0.1:{self.server.server_port}/{file}", makes, digest)
        monkeypatch.setitem(download.DOWNLOADS, name, (*download.DOWNLOADS.get(name, ()), item))


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*members: tuple[str, bytes | None]) -> bytes:
    """Content None: a symbolic link to /etc."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc"
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return buffer.getvalue()


PHOTO = bytes(range(256)) * 20000
"""5 MB: more than one piece."""


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("ranges", [True, False], ids=["with Range", "without Range"])
def test_a_cut_connection_is_resumed(site, monkeypatch, tmp_path, capsys, ranges):
    content = zipped(**{"photos/1.jpg": PHOTO})
    site.publish(monkeypatch, "birds", "birds.zip", content, ("set/photos",))
    site.cuts, site.ranges = 2, ranges
    assert run("download", "birds", "--root", tmp_path) == 0
    half = len(content) // 2
    three_quarters = half + (len(content) - half) // 2
    # A server without ranges starts from the front each time.
    assert site.asked == [None, f"bytes={half}-", f"bytes={three_quarters if ranges else half}-"]
    assert files(tmp_path) == ["set/photos/1.jpg"]
    assert (tmp_path / "set/photos/1.jpg").read_bytes() == PHOTO
    assert run("download", "birds", "--root", tmp_path) == 0
    assert "birds.zip: already downloaded" in capsys.readouterr().out
    assert len(site.asked) == 3


def test_it_goes_on_as_long_as_something_comes(site, monkeypatch, tmp_path):
    site.publish(monkeypatch, "birds", "birds.zip", zipped(**{"photos/1.jpg": PHOTO}), ("set/photos",))
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)
    site.cuts = 10
    assert run("download", "birds", "--root", tmp_path) == 0
    assert len(site.asked) == 11
    site.asked, site.cuts, site.ranges = [], 10, False  # half of it again and again
    assert run("download", "birds", "--root", tmp_path / "other") == 1
    assert len(site.asked) == 3


def test_a_later_run_goes_on(site, monkeypatch, tmp_path, capsys):
    content = zipped(**{"photos/1.jpg": PHOTO})
    site.publish(monkeypatch, "birds", "birds.zip", content, ("set/photos",))
    monkeypatch.setattr(fetching, "ATTEMPTS", 1)
    site.cuts, site.ranges = 10, False
    (tmp_path / "set").mkdir()
    (tmp_path / "set/birds.zip.part").write_bytes(content[: len(content) // 2])
    assert run("download", "birds", "--root", tmp_path) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "could not download" in error and "Run the same command again to resume" in error
    assert str(tmp_path / "set/birds.zip") in error
    assert files(tmp_path) == ["set/birds.zip.part"]
    site.cuts, site.ranges, site.asked = 0, True, []
    assert run("download", "birds", "--root", tmp_path) == 0
    assert site.asked == [f"bytes={len(content) // 2}-"]
    assert files(tmp_path) == ["set/photos/1.jpg"]


def test_a_part_that_is_whole_and_one_that_is_too_long(site, monkeypatch, tmp_path):
    content = b"{}"
    site.publish(monkeypatch, "list", "list.json", content, ("set/list.json",))
    (tmp_path / "set").mkdir()
    for part in (content, content + b"more"):
        (tmp_path / "set/list.json.part").write_bytes(part)
        assert run("download", "list", "--root", tmp_path) == 0
        assert files(tmp_path) == ["set/list.json"]
        assert (tmp_path / "set/list.json").read_bytes() == content
        (tmp_path / "set/list.json").unlink()


def test_a_wrong_sum_is_not_kept(site, monkeypatch, tmp_path, capsys):
    site.publish(monkeypatch, "birds", "birds.zip", zipped(a=b"a"), ("set/a",))
    site.files["birds.zip"] = zipped(a=b"b")
    assert run("download", "birds", "--root", tmp_path) == 1
    error = capsys.readouterr().err
    assert "is damaged: its MD5 sum is not" in error and "It was deleted" in error
    assert not files(tmp_path)


def test_a_file_put_there_by_hand_is_used(site, monkeypatch, tmp_path, capsys):
    content = zipped(a=b"a")
    site.publish(monkeypatch, "birds", "birds.zip", content, ("set/a",))
    (tmp_path / "set").mkdir()
    (tmp_path / "set/birds.zip").write_bytes(b"other")
    assert run("download", "birds", "--root", tmp_path) == 1
    assert "Delete it" in capsys.readouterr().err
    (tmp_path / "set/birds.zip").write_bytes(content)
    assert run("download", "birds", "--root", tmp_path) == 0
    assert files(tmp_path) == ["set/a"]
    assert not site.asked


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("bad.zip", zipped(**{"a": b"a", "../out.txt": b"out"})),
        ("bad.zip", zipped(**{"a": b"a", "/tmp/refexp-out.txt": b"out"})),
        ("bad.tar", tarred(("a", b"a"), ("../out.txt", b"out"))),
    ],
)
def test_no_path_leaves_the_target(site, monkeypatch, tmp_path, capsys, file, content):
    Path("/tmp/refexp-out.txt").unlink(missing_ok=True)
    site.publish(monkeypatch, "bad", file, content, ("set/a",))
    assert run("download", "bad", "--root", tmp_path / "root") == 1
    assert "a path outside its folder" in capsys.readouterr().err
    assert files(tmp_path) == [f"root/set/{file}"]  # nothing unpacked anywhere
    assert not Path("/tmp/refexp-out.txt").exists()


def test_links_are_left_out(site, monkeypatch, tmp_path):
    content = tarred(("link", None), ("link/passwd", b"harmless"), ("a", b"a"))
    site.publish(monkeypatch, "links", "links.tar", content, ("set/a",))
    assert run("download", "links", "--root", tmp_path) == 0
    assert (tmp_path / "set/link/passwd").read_bytes() == b"harmless"
    assert not (tmp_path / "set/link").is_symlink()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(a=PHOTO)[:-100], "is damaged"),
        (zipped(a=b"right").replace(b"right", b"wrong"), "is damaged"),
        (zipped(b=b"b"), "does not contain a"),
    ],
)
def test_an_archive_without_a_published_sum(site, monkeypatch, tmp_path, capsys, content, message):
    site.publish(monkeypatch, "birds", "birds.zip", content, ("set/a",), md5=False)
    assert run("download", "birds", "--root", tmp_path) == 1
    assert message in capsys.readouterr().err
    assert files(tmp_path) == ["set/birds.zip"]


def test_two_archives_share_a_folder(site, monkeypatch, tmp_path, capsys):
    """As VOC2007's trainval and test; and --force brings back what was lost."""
    for part in ("trainval", "test"):
        members = ((f"kit/Images/{part}.jpg", b"image"), (f"kit/Sets/{part}.txt", b""))
        site.publish(monkeypatch, "kit", f"{part}.tar", tarred(*members), (f"set/kit/Sets/{part}.txt",))
    assert run("download", "kit", "--root", tmp_path) == 0
    everything = [
        f"set/kit/{file}" for file in ("Images/test.jpg", "Images/trainval.jpg", "Sets/test.txt", "Sets/trainval.txt")
    ]
    assert files(tmp_path) == everything
    (tmp_path / "set/kit/Images/trainval.jpg").unlink()
    assert run("download", "kit", "--root", tmp_path) == 0
    assert files(tmp_path) != everything
    assert run("download", "kit", "--root", tmp_path, "--force") == 0
    assert files(tmp_path) == everything


def test_what_an_archive_makes_comes_last(tmp_path, monkeypatch):
    """A killed move leaves no sign of being done."""
    target = tmp_path / "set"
    (target / "kit/Images").mkdir(parents=True)
    (target / "kit/Alists").mkdir()
    archive = target / "kit.tar"
    archive.write_bytes(tarred(("kit/Alists/done.txt", b""), ("kit/Images/1.jpg", b""), ("kit/Alists/z.txt", b"")))
    moved = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, place: moved.append(place.name) or replace(path, place))
    download.install(archive, tmp_path, Download("x/kit.tar", ("set/kit/Alists/done.txt",)))
    assert moved == ["z.txt", "1.jpg", "done.txt"]
    assert not list(target.glob(".*"))


def test_names_and_files_that_are_not_there(site, monkeypatch, tmp_path, capsys):
    assert run("download", "voc2021", "--root", tmp_path) == 1
    assert "Did you mean 'voc20" in capsys.readouterr().err
    site.publish(monkeypatch, "gone", "gone.zip", b"", ("set/a",))
    del site.files["gone.zip"]
    assert run("download", "gone", "--root", tmp_path) == 1
    assert "404" in capsys.readouterr().err.splitlines()[-1]
    assert len(site.asked) == 1  # asking again would not help


def test_what_a_person_must_fetch(tmp_path, capsys):
    assert run("download", "deepfish", "--root", tmp_path) == 1
    error = capsys.readouterr().err
    assert "drive.google.com" in error and str(tmp_path / "cdfsod/FISH/annotations/test.json") in error
    assert "refexp data check deepfish" in error


def test_the_published_files_have_sound_entries():
    items = [item for files in download.DOWNLOADS.values() for item in files]
    assert len({item.url for item in items}) == len(items) == 9
    assert all(item.md5 is None or len(item.md5) == 32 for item in items)
    assert all(path.startswith(f"{item.folder}/") for item in items for path in item.makes)


# --- check


def test_an_empty_root_says_what_to_do(tmp_path, capsys):
    assert run("check", "voc_split1", "lvis_minival", "coco_fsod", "artaxor", "--root", tmp_path) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"missing: {tmp_path}/coco" in lines
    steps = [line for line in lines if line.startswith("do: ")]
    voc, lvis_folder = tmp_path / "voc", tmp_path / "lvis"
    assert steps[:-1] == [
        f"do: refexp data download voc2007 --root {tmp_path}",
        f"do: refexp data voc2coco {voc}/VOCdevkit --years 2007 --set test --out {voc}/voc07_test.json",
        f"do: refexp data download voc2012 --root {tmp_path}",
        f"do: refexp data voc2coco {voc}/VOCdevkit --years 2007 2012 --set trainval --out {voc}/voc0712_trainval.json",
        f"do: refexp data download lvis --root {tmp_path}",
        f"do: refexp data lvis {lvis_folder}/lvis_v1_val.json"
        f" --minival {lvis_folder}/lvis_v1_minival_inserted_image_name.json",
        f"do: refexp data download coco --root {tmp_path}",
        f"do: refexp data lvis {lvis_folder}/lvis_v1_train.json",
        f"do: refexp data download coco --root {tmp_path}",
    ]
    assert "drive.google.com" in steps[-1] and f"{tmp_path}/cdfsod/ArTaxOr/annotations/test.json" in steps[-1]


def test_the_commands_it_names_complete_the_root(tmp_path, capsys):
    """What is to be done after the downloads, done: taken from the output, word for word."""
    for build in (miniature.coco, miniature.lvis, miniature.voc):
        build(tmp_path)
    names = ["voc_split1", "voc_split2", "lvis", "lvis_minival", "coco20i_2"]
    assert run("check", *names, "--root", tmp_path) == 1
    out = capsys.readouterr().out
    steps = {line.split("do: ")[1] for line in out.splitlines() if "do: " in line}
    assert len(steps) == 5 and not any("download" in step for step in steps)
    assert "coco20i_2: complete, instances_val2017.json (7 images), instances_train2017.json (14 images)" in out
    for step in steps:
        assert run(*step.split()[2:]) == 0
    assert run("check", *names, "--root", tmp_path) == 0


def test_a_whole_root_is_complete_for_every_option(whole, capsys):
    assert run("check", "--root", whole) == 0, capsys.readouterr().out
    out = capsys.readouterr().out
    named = {name for line in out.splitlines() for name in line.split(": complete, ")[0].split(", ")}
    assert named >= {"coco", "voc_split3", "lvis_rare", "artaxor", "dior"}
    assert "coco, coco20i_0, coco20i_1, coco20i_2, coco20i_3, coco_fsod: complete, instances" in out
    assert "1_shot.json (1 images), 5_shot.json (5 images), 10_shot.json (10 images)" in out
    assert "synthetic" not in out


@pytest.fixture
def own(whole, tmp_path) -> Path:
    """A copy to spoil of what three options read."""
    for folder in ("coco", "voc"):
        shutil.copytree(whole / folder, tmp_path / folder)
    return tmp_path


def spoilt(own: Path, capsys, name: str) -> tuple[str, str]:
    """The only problem of an option, and the only thing to do about it."""
    assert run("check", name, "--root", own) == 1
    state, problem, step = (line.strip() for line in capsys.readouterr().out.splitlines())
    assert state == f"{name}: incomplete"
    return problem, step


def test_missing_images(own, capsys):
    for image in sorted((own / "voc/VOCdevkit/VOC2012/JPEGImages").iterdir()):
        image.unlink()
    problem, step = spoilt(own, capsys, "voc_split1")
    first = own / "voc/VOCdevkit/VOC2012/JPEGImages/2007_000005.jpg"
    assert problem == f"missing: 2 of the 4 images of {own}/voc/voc0712_trainval.json, first {first}"
    assert step == f"do: refexp data download voc2012 --force --root {own}"
    shutil.rmtree(own / "voc/VOCdevkit/VOC2012")
    assert spoilt(own, capsys, "voc_split1")[1] == f"do: refexp data download voc2012 --root {own}"


def test_a_folder_that_lacks_an_image_is_fetched_again_alone(own, capsys):
    (own / "coco/val2017/000000000102.jpg").unlink()
    assert run("check", "coco", "--root", own) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "missing: 1 of the 7 images of" in lines[1] and "000000000102.jpg" in lines[1]
    assert [line.strip() for line in lines[2:]] == [
        f"do: delete {own}/coco/val2017",
        f"do: refexp data download coco --root {own}",
    ]


def test_a_missing_folder_of_images(own, capsys):
    shutil.rmtree(own / "coco/train2017")
    problem, step = spoilt(own, capsys, "coco")
    assert problem == f"missing: {own}/coco/train2017"
    assert step == f"do: refexp data download coco --root {own}"


@pytest.mark.parametrize("text", ['{"images": [', '{"images": []}', '{"images": [{"id": 1}], "annotations": []}'])
def test_a_damaged_annotation_file(own, capsys, text):
    path = own / "coco/annotations/instances_val2017.json"
    path.write_text(text)
    problem, step = spoilt(own, capsys, "coco_fsod")
    assert problem.startswith(f"wrong: {path}")
    assert step == f"do: delete {path}, then check again"
    path.unlink()
    assert spoilt(own, capsys, "coco_fsod")[1] == f"do: refexp data download coco --root {own}"


def test_images_of_another_size(own, capsys):
    path = own / "coco/annotations/instances_val2017.json"
    content = read(path)
    content["images"][0]["width"] = 100
    write_json(path, content)
    problem, _ = spoilt(own, capsys, "coco")
    assert "has 320 x 240 pixels, but its annotations say 100 x 240" in problem


def test_options_without_files_and_unknown_ones(tmp_path, capsys):
    assert run("check", "synthetic", "custom", "--root", tmp_path) == 0
    assert run("check", "coco_fsodd", "--root", tmp_path) == 1
    assert "Did you mean 'coco_fsod'" in capsys.readouterr().err


def test_an_option_of_ones_own(tmp_path, capsys, monkeypatch):
    conf = tmp_path / "conf"
    monkeypatch.setattr(check, "CONF", conf)
    write(conf / "config.yaml", "defaults: [{dataset: mine}]\n")
    text = "images: ${data_root}/mine\nreferences: /elsewhere/r.json\ntargets: ${data_root}/mine/t.json\n"
    write(conf / "dataset/mine.yaml", text)
    assert check.options() == ["mine"]
    assert not check.print_reports([], tmp_path)
    out = capsys.readouterr().out
    assert "missing: /elsewhere/r.json" in out and f"do: put {tmp_path}/mine there yourself" in out
    write(conf / "dataset/broken.yaml", "targets: ${nothing.here}\n")
    with pytest.raises(RefexpError, match=r"broken\.yaml: .*nothing\.here"):
        check.options()


def test_check_within_a_hydra_application(tmp_path, monkeypatch):
    conf, state = tmp_path / "conf", object()
    monkeypatch.setattr(check, "CONF", conf)
    write(conf / "config.yaml", "defaults: [{dataset: mine}]\n")
    write(conf / "dataset/mine.yaml", "defaults: [nothing]\n")
    GlobalHydra.instance().hydra = state
    try:
        with pytest.raises(RefexpError, match=r"mine\.yaml: In 'dataset/mine': Could not load 'dataset/nothing'\.$"):
            check.options()
        write(conf / "dataset/mine.yaml", "targets: ${data_root}/mine/t.json\n")
        assert check.options() == ["mine"]
        assert GlobalHydra.instance().hydra is state
    finally:
        GlobalHydra.instance().clear()


# --- synthetic, and where results go


@pytest.mark.parametrize("wrong", [("--seed", -1), ("--references", 0), ("--photos", -3)])
def test_numbers_that_draw_nothing(wrong, tmp_path, capsys):
    assert run("synthetic", tmp_path / "out", *wrong) == 2
    error = capsys.readouterr().err
    assert (
        f"Invalid value for '{wrong[0]}': {wrong[1]} is not in the range" in error and not (tmp_path / "out").exists()
    )


def test_out_is_looked_at_before_the_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out, says in ((tmp_path, "is a folder"), (tmp_path / "file/x.json", "is not a writable folder")):
        assert run("subset", tmp_path / "none.json", "--images", 1, "--out", out) == 1
        assert says in capsys.readouterr().err


# --- subset


def test_subset_of_images_and_classes(whole, tmp_path, capsys):
    source, out = whole / "coco/annotations/instances_val2017.json", tmp_path / "sub/small.json"
    copies = ("--copy-images", whole / "coco/val2017", tmp_path / "images")
    command = ("subset", source, "--images", 101, 100, 101, "--classes", "bird", "boat", "cat", "--out", out, *copies)
    assert run(*command) == 0
    assert "bird (1), boat (1), cat (1)" in capsys.readouterr().out
    content = read_coco(out)
    assert [image["id"] for image in content["images"]] == [101, 100]
    assert [category["name"] for category in content["categories"]] == ["bird", "boat", "cat"]
    assert [annotation["category_id"] for annotation in content["annotations"]] == [9, 16, 17]  # the file's order
    assert files(tmp_path / "images") == ["000000000100.jpg", "000000000101.jpg"]


def test_subset_keeps_the_classes_that_occur(whole, tmp_path):
    out = tmp_path / "small.json"
    assert run("subset", whole / "coco/annotations/instances_val2017.json", "--images", 100, "--out", out) == 0
    content = read_coco(out)
    assert len(content["categories"]) == len(content["annotations"]) == 12
    assert {a["category_id"] for a in content["annotations"]} == {c["id"] for c in content["categories"]}


def test_subset_of_what_is_not_there(whole, tmp_path, capsys):
    source, out = whole / "coco/annotations/instances_val2017.json", ("--out", tmp_path / "small.json")
    assert run("subset", source, "--images", 100, 99, *out) == 1
    assert "none of its 7 images has the id 99" in capsys.readouterr().err
    assert run("subset", source, "--images", 100, "--classes", "burd", *out) == 1
    assert "Did you mean 'bird'" in capsys.readouterr().err
    assert run("subset", source, "--images", 100, *out, "--copy-images", tmp_path, tmp_path / "to") == 1
    assert "image not found" in capsys.readouterr().err
    assert not (tmp_path / "small.json").exists()


@pytest.mark.parametrize("command", ["check", "download", "voc2coco"])
def test_a_command_without_arguments_has_no_traceback(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(command) in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err
