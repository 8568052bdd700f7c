"""Download published data sets: resume, verify the checksum, unpack to a temporary folder, and move into place."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from refexp.errors import RefexpError, data_command, did_you_mean

COCO_SITE = "http://images.cocodataset.org"
LVIS_SITE = "https://dl.fbaipublicfiles.com/LVIS"
VOC_SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
GLIP_SITE = "https://huggingface.co/GLIPModel/GLIP/resolve/main"
LVIS_MINIVAL = "lvis_v1_minival_inserted_image_name.json"
CDFSOD_PAGE = "https://github.com/lovelyqian/CDFSOD-benchmark"
CDFSOD_FILES = "https://drive.google.com/drive/folders/16SDv_V7RDjTKDk8uodL2ubyubYTMdd5q"


@dataclass(frozen=True)
class Download:
    """A published file. All paths are relative to the data root.

    makes: the paths that exist after the download (and unpacking), but not before. All are in the same folder.
    md5: the published checksum, or the checksum that several independent projects record. None if there is neither.
    """

    url: str
    makes: tuple[str, ...]
    md5: str | None = None

    @property
    def file(self) -> str:
        """The file name in the URL."""
        return self.url.rsplit("/", 1)[1]

    @property
    def folder(self) -> str:
        """The folder of the data set in the data root."""
        return self.makes[0].split("/")[0]

    def here(self, root: Path) -> bool:
        """Whether all paths that it makes exist."""
        return all((root / path).exists() for path in self.makes)


def _voc(year: int, file: str, image_set: str, md5: str) -> Download:
    return Download(f"{VOC_SITE}/voc{year}/{file}", (f"voc/VOCdevkit/VOC{year}/ImageSets/Main/{image_set}.txt",), md5)


DOWNLOADS: dict[str, tuple[Download, ...]] = {
    "coco": (
        Download(
            f"{COCO_SITE}/annotations/annotations_trainval2017.zip",
            ("coco/annotations/instances_train2017.json", "coco/annotations/instances_val2017.json"),
            "f4bbac642086de4f52a3fdda2de5fa2c",
        ),
        Download(f"{COCO_SITE}/zips/val2017.zip", ("coco/val2017",), "442b8da7639aecaf257c1dceb8ba8c80"),
        Download(f"{COCO_SITE}/zips/train2017.zip", ("coco/train2017",), "cced6f7f71b7629ddf16f17bbcfab6b2"),
    ),
    "lvis": (
        # Meta publishes no checksums. Too few projects record that of the training part; a zip has its own checksums.
        Download(f"{LVIS_SITE}/lvis_v1_train.json.zip", ("lvis/lvis_v1_train.json",)),
        Download(f"{LVIS_SITE}/lvis_v1_val.json.zip", ("lvis/lvis_v1_val.json",), "87734a7f895990b9552075d7ce723e27"),
        Download(f"{GLIP_SITE}/{LVIS_MINIVAL}", (f"lvis/{LVIS_MINIVAL}",)),
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
"""The CD-FSOD data sets and their folders on the download page. Google Drive serves the files only to browsers."""


def download(name: str, root: Path, force: bool = False) -> None:
    """Download and unpack the missing files of the data set `name` in `root`. With `force`, download all files.

    Raises RefexpError for an unknown name, a data set that needs a browser, no connection, a wrong checksum or a
    damaged archive.
    """
    from refexp.machine.fetching import fetch  # imports rich, which would slow down --help

    if name in BY_HAND:
        raise RefexpError(f"{by_hand(name, root)}, and then run: {data_command('check', name, '--root', root)}")
    if name not in DOWNLOADS:
        raise RefexpError(f"unknown data set '{name}'. {did_you_mean(name, [*DOWNLOADS, *BY_HAND])}")
    for item in DOWNLOADS[name]:
        if item.here(root) and not force:
            print(f"{item.file}: already downloaded ({root / item.makes[0]})")
            continue
        print(f"{item.url} -> {root / item.folder}", flush=True)
        path = root / item.folder / item.file
        fetch(item.url, path, "md5", item.md5)
        if path.suffix in (".zip", ".tar"):
            install(path, root, item)
            path.unlink()


def by_hand(name: str, root: Path) -> str:
    """Describe how to download one of the CD-FSOD data sets by hand."""
    folder = root / "cdfsod" / BY_HAND[name]
    return (
        f"{name} must be downloaded by hand. Open {CDFSOD_FILES} (CD-FSOD, linked from {CDFSOD_PAGE}) in a browser, "
        f"download {BY_HAND[name]} and unpack it so that {folder / 'annotations/test.json'} exists, with the images "
        f"in {folder / 'train'} and {folder / 'test'}{' (subfolders new_train, new_test)' if name == 'dior' else ''}"
    )


def install(archive: Path, root: Path, item: Download) -> None:
    """Unpack an archive into a temporary folder and move the content into place.

    `item.makes` moves last, because these paths mean that the download is complete.
    """
    temporary = archive.with_name(f".{archive.name}.unpacking")
    content = temporary / item.folder
    shutil.rmtree(temporary, ignore_errors=True)  # left by an interrupted attempt
    try:
        print(f"unpacking {archive}", flush=True)
        unpack(archive, content)
        for number, made in enumerate(item.makes):
            if not (temporary / made).exists():
                raise RefexpError(f"{archive} does not contain {Path(made).name}; delete it and try again.")
            (temporary / made).rename(temporary / str(number))  # aside, so that the other content moves first
        _move(content, root / item.folder)
        for number, made in enumerate(item.makes):
            _move(temporary / str(number), root / made)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files of a zip or tar into `folder`. Links and devices of a tar are skipped.

    Raises RefexpError for a damaged archive, and for an archive with a path outside the folder.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as bundle:
                _refuse_outside(archive, bundle.namelist(), folder)  # zipfile would silently change such paths
                bundle.extractall(folder)
        else:
            with tarfile.open(archive, "r:") as tar:
                members = [member for member in tar if member.isfile()]
                _refuse_outside(archive, [member.name for member in members], folder)
                tar.extraction_filter = getattr(tarfile, "data_filter", None)  # exists since Python 3.10.12 and 3.11.4
                tar.extractall(folder, members)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise RefexpError(f"{archive} is damaged ({error}); delete it and run the same command again.") from None


def _refuse_outside(archive: Path, names: Iterable[str], folder: Path) -> None:
    for name in names:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise RefexpError(f"{archive} contains {name}, a path outside its folder; refexp does not unpack it.")


def _move(source: Path, target: Path) -> None:
    """Move a file or folder. If the target folder exists, merge the contents into it."""
    if source.is_dir() and target.is_dir():
        for path in sorted(source.iterdir()):
            _move(path, target / path.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
