"""Fetching published data sets: resumed, checked, unpacked beside their place and then moved into it."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

from refexp.errors import RefexpError, data_command, did_you_mean
from refexp.machine.progress import track

COCO_SITE = "http://images.cocodataset.org"
LVIS_SITE = "https://dl.fbaipublicfiles.com/LVIS"
VOC_SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
GLIP_SITE = "https://huggingface.co/GLIPModel/GLIP/resolve/main"
CDFSOD_PAGE = "https://github.com/lovelyqian/CDFSOD-benchmark"
CDFSOD_FILES = "https://drive.google.com/drive/folders/16SDv_V7RDjTKDk8uodL2ubyubYTMdd5q"

PIECE = 1 << 20
"""Bytes read at once, and the unit of the progress bar: 1 MiB."""
TIMEOUT_SECONDS = 60.0
ATTEMPTS = 5
"""How often in a row a download may break off without a byte gained before it is given up."""
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Download:
    """A published file. All paths are below the data root.

    folder: where it goes, and is unpacked if it is an archive. makes: what is there when that is done, and not before.
    md5: as published, or on record in several independent projects; None where neither is so.
    """

    url: str
    folder: str
    makes: tuple[str, ...]
    md5: str | None = None

    @property
    def file(self) -> str:
        return self.url.rsplit("/", 1)[1]

    @property
    def packed(self) -> bool:
        return self.file.endswith((".zip", ".tar"))

    def here(self, root: Path) -> bool:
        """Whether everything it makes is in place."""
        return all((root / path).exists() for path in self.makes)


def _voc(year: int, file: str, image_set: str, md5: str) -> Download:
    made = f"voc/VOCdevkit/VOC{year}/ImageSets/Main/{image_set}.txt"
    return Download(f"{VOC_SITE}/voc{year}/{file}", "voc", (made,), md5)


DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "coco": (
        Download(
            f"{COCO_SITE}/annotations/annotations_trainval2017.zip",
            "coco",
            ("coco/annotations/instances_train2017.json", "coco/annotations/instances_val2017.json"),
            "f4bbac642086de4f52a3fdda2de5fa2c",
        ),
        Download(f"{COCO_SITE}/zips/val2017.zip", "coco", ("coco/val2017",), "442b8da7639aecaf257c1dceb8ba8c80"),
        Download(f"{COCO_SITE}/zips/train2017.zip", "coco", ("coco/train2017",), "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
    "lvis": (
        # Meta publishes no sums; that of the training part is not on record often enough, but a zip checks itself.
        Download(f"{LVIS_SITE}/lvis_v1_train.json.zip", "lvis", ("lvis/lvis_v1_train.json",)),
        Download(
            f"{LVIS_SITE}/lvis_v1_val.json.zip", "lvis", ("lvis/lvis_v1_val.json",), "87734a7f895990b9552075d7ce723e27"
        ),
        Download(
            f"{GLIP_SITE}/lvis_v1_minival_inserted_image_name.json",
            "lvis",
            ("lvis/lvis_v1_minival_inserted_image_name.json",),
        ),
    ),
    "voc2007": (
        _voc(2007, "VOCtrainval_06-Nov-2007.tar", "trainval", "c52e279531787c972589f7e41ab4ae64"),
        _voc(2007, "VOCtest_06-Nov-2007.tar", "test", "b6e924de25625d8de591ea690078ad9f"),
    ),
    "voc2012": (_voc(2012, "VOCtrainval_11-May-2012.tar", "trainval", "6cd6e144f989b92b3379bac3b3de84fd"),),
}

BY_HAND: dict[str, str] = {
    "artaxor": "ArTaxOr",
    "clipart1k": "clipart1k",
    "dior": "DIOR",
    "deepfish": "FISH",
    "neu_det": "NEU-DET",
    "uodd": "UODD",
}
"""CD-FSOD's sets, by the name of their folder on its page: a Google Drive, which hands files only to a browser."""


def download(name: str, root: Path, force: bool = False) -> None:
    """Fetch and unpack what the data set `name` lacks below `root`; with `force`, also what is there.

    Raises RefexpError: unknown name, nothing that a program may fetch, no connection, a wrong checksum, a bad archive.
    """
    if name in BY_HAND:
        raise RefexpError(f"{by_hand(name, root)}; then run: {data_command('check', name, '--root', root)}")
    if name not in DOWNLOADS:
        raise RefexpError(f"no data set is called '{name}'. {did_you_mean(name, [*DOWNLOADS, *BY_HAND])}")
    for item in DOWNLOADS[name]:
        if item.here(root) and not force:
            print(f"{item.file}: here already ({root / item.makes[0]})")
            continue
        print(f"{item.url} -> {root / item.folder}", flush=True)
        path = root / item.folder / item.file
        fetch(item, path)
        if item.packed:
            install(path, root, item)
            path.unlink()


def by_hand(name: str, root: Path) -> str:
    """What a person has to do for one of CD-FSOD's sets."""
    folder = root / "cdfsod" / BY_HAND[name]
    return (
        f"{name} can only be fetched by hand: open {CDFSOD_FILES} (CD-FSOD, linked from {CDFSOD_PAGE}) in a browser, "
        f"download {BY_HAND[name]} and unpack it so that {folder / 'annotations/test.json'} exists, with the images "
        f"below {folder / 'train'} and {folder / 'test'}{' (new_train and new_test in them)' if name == 'dior' else ''}"
    )


def fetch(item: Download, path: Path) -> None:
    """Bring `item` to `path`, from where an earlier attempt stopped. A file that is there is only checked."""
    part = path.with_name(f"{path.name}.part")
    found = path.is_file()
    if not found:
        path.parent.mkdir(parents=True, exist_ok=True)
        _receive_all(item, part, path)
    current = path if found else part
    if item.md5 and _md5(current) != item.md5:
        if not found:
            part.unlink()  # or every further attempt would go on from it
        raise RefexpError(
            f"the MD5 sum of {current} is not {item.md5}: the file is damaged{'' if found else ', and deleted'}. "
            f"{'Delete it and run' if found else 'Run'} the same command again, or put {item.url} at {path} by hand."
        )
    if not found:
        part.replace(path)


def _receive_all(item: Download, part: Path, path: Path) -> None:
    """Try again as long as each attempt brings something."""
    failed = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _receive(item.url, part)
        except (OSError, HTTPException) as error:  # includes URLError, and time-outs
            status = error.code if isinstance(error, urllib.error.HTTPError) else None
            gained = part.exists() and part.stat().st_size > before
            failed = 0 if gained else failed + 1
            if failed == ATTEMPTS or (status is not None and 400 <= status < 500):
                raise RefexpError(
                    f"could not fetch {item.url}: {error}. The same command goes on from here; "
                    f"or fetch it by hand, put it at {path} and run the command again."
                ) from None
            time.sleep(PAUSE_SECONDS)


def _receive(url: str, part: Path) -> None:
    """One request for what `part` lacks, appended to it. Raises OSError or HTTPException if the connection breaks."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{start}"):
            return  # nothing is left to send
        if error.code == 416:
            part.unlink()  # longer than the file is now
            raise ConnectionError(f"{url} has changed since the download began") from None
        raise
    with response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            raise ConnectionError(f"{url} sent another part than asked for")
        if response.status != 206:
            start = 0  # the server sends everything, whatever was asked for
        length = response.headers.get("Content-Length")
        with part.open("ab" if start else "wb") as file:
            received = _copy(response, file, int(length) if length else None, part.stem)
    # A connection that is cut looks like the end of the file.
    if length and received < int(length):
        raise ConnectionError(f"the connection broke off after {start + received} of {start + int(length)} bytes")


def _copy(response: Any, file: IO[bytes], length: int | None, name: str) -> int:
    """Write a response to a file with a progress bar in MiB; the number of bytes."""
    received = 0
    pieces = iter(lambda: response.read(PIECE), b"")
    for piece in track(pieces, -(-(length or 0) // PIECE), f"{name}, MiB") if length else pieces:
        file.write(piece)
        received += len(piece)
    return received


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            digest.update(piece)
    return digest.hexdigest()


def install(archive: Path, root: Path, item: Download) -> None:
    """Unpack an archive next to its place and move the content there, `item.makes` last."""
    target = root / item.folder
    temporary = target / f".{archive.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed attempt
    try:
        print(f"unpacking {archive}", flush=True)
        unpack(archive, temporary)
        last = [temporary / Path(path).relative_to(item.folder) for path in item.makes]
        for path in last:
            if not path.exists():
                raise RefexpError(f"{archive} does not hold {path.relative_to(temporary)}; delete it and try again.")
        _move(temporary, target, last)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unpack(archive: Path, folder: Path) -> None:
    """Write the files of a zip or tar below `folder`; links and devices are left out.

    Raises RefexpError for an archive that is damaged, or holds a path that leads out of the folder.
    """
    try:
        for name, stream in _members(archive):
            path = (folder / name).resolve()
            if not path.is_relative_to(folder.resolve()):
                raise RefexpError(f"{archive} holds {name}, a path that leads out of its folder; it is not unpacked.")
            path.parent.mkdir(parents=True, exist_ok=True)
            with stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file, PIECE)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise RefexpError(f"{archive} is damaged ({error}); delete it and run the same command again.") from None


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of every regular file."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                if not info.is_dir():
                    yield info.filename, bundle.open(info)
    else:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, stream


def _move(source: Path, target: Path, last: list[Path]) -> None:
    """Move the content of a folder into another, which may hold parts of it already; the paths in `last` at the end.

    A folder that is new at its place is moved as a whole, at once.
    """

    def late(path: Path) -> bool:
        return any(path == end or path in end.parents for end in last)

    for path in sorted(source.iterdir(), key=lambda path: (late(path), path.name)):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _move(path, place, last)
        else:
            path.replace(place)
