"""Preparing published data sets, and one's own.

refexp-data check                                   # what is missing below the data root, and what to do about it
refexp-data download coco                           # fetch and unpack
refexp-data voc2coco DEVKIT --years 2007 --set test --out FILE
refexp-data lvis ANNOTATIONS                        # LVIS v1 as a COCO file
refexp-data subset ANNOTATIONS --images 42 73 --classes bird boat --out FILE
refexp-data boxes2masks ANNOTATIONS --images DIR --out FILE    # masks where there are boxes only, by SAM2
refexp-data synthetic DIR                           # drawn references and photographs, to try things on
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from refexp.config.building import build
from refexp.config.composing import compose_config
from refexp.datatools import download  # the others import torch, which --help need not wait for
from refexp.errors import RefexpError
from refexp.files import write_json
from refexp.machine.processes import wait_briefly

ROOT = Path("data")


def main(arguments: list[str] | None = None) -> int:
    """`refexp-data check|download|...`, also as `python -m refexp.data`; the exit code."""
    parser = argparse.ArgumentParser(prog="refexp-data", description="Prepare data sets, published and one's own.")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_check, _add_download, _add_voc2coco, _add_lvis, _add_subset, _add_boxes2masks, _add_synthetic):
        add(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # progress, where there is no terminal for a bar
    try:
        _check_out(getattr(options, "out", None))
        return options.run(options)
    except RefexpError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("interrupted; the same command starts again, a download where it was", file=sys.stderr)
        return 130
    return 1


def _add_check(commands: Any) -> None:
    command = commands.add_parser("check", help="what is missing or wrong below the data root, and what to do about it")
    command.add_argument("names", nargs="*", help="dataset options; none checks all")
    command.add_argument("--root", type=Path, default=ROOT, help="the data root (data_root); default: data")
    command.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from refexp.datatools import check

    return 0 if check.print_reports(options.names, options.root) else 1


def _add_download(commands: Any) -> None:
    command = commands.add_parser("download", help="fetch and unpack a published data set")
    names = [*download.DOWNLOADS, *download.BY_HAND]
    command.add_argument("name", help=", ".join(names))
    command.add_argument("--root", type=Path, default=ROOT, help="the data root (data_root); default: data")
    command.add_argument("--force", action="store_true", help="fetch and unpack even what is there")
    command.set_defaults(run=_download)


def _download(options: argparse.Namespace) -> int:
    download.download(options.name, options.root, options.force)
    return 0


def _add_voc2coco(commands: Any) -> None:
    command = commands.add_parser("voc2coco", help="PASCAL VOC's XML as a COCO file")
    command.add_argument("devkit", type=Path, help="the folder VOCdevkit")
    command.add_argument("--years", type=int, nargs="+", choices=(2007, 2012), required=True)
    command.add_argument("--set", required=True, help="trainval, test, ...: a file of ImageSets/Main")
    command.add_argument("--out", type=Path, required=True, help="the COCO file to write")
    command.set_defaults(run=_voc2coco)


def _voc2coco(options: argparse.Namespace) -> int:
    from refexp.datatools import voc

    return _write(options.out, voc.convert(options.devkit, list(dict.fromkeys(options.years)), options.set))


def _add_lvis(commands: Any) -> None:
    command = commands.add_parser("lvis", help="LVIS v1 as a COCO file, with image file names")
    command.add_argument("annotations", type=Path, help="lvis_v1_train.json or lvis_v1_val.json")
    command.add_argument("--minival", type=Path, help="only this file's images and annotations, of lvis_v1_val.json")
    command.add_argument(
        "--out", type=Path, help="default: lvis_v1_{train,val,minival}_refexp.json, in the folder of the annotations"
    )
    command.set_defaults(run=_lvis)


def _lvis(options: argparse.Namespace) -> int:
    from refexp.datatools import lvis_files

    annotations, listed = options.annotations, options.minival
    name = "lvis_v1_minival" if listed else annotations.stem
    content = lvis_files.minival(annotations, listed) if listed else lvis_files.convert(annotations)
    return _write(options.out or annotations.with_name(f"{name}_refexp.json"), content)


def _add_subset(commands: Any) -> None:
    command = commands.add_parser("subset", help="some images, and classes, of a COCO file")
    command.add_argument("annotations", type=Path, help="a COCO file")
    command.add_argument("--images", nargs="+", required=True, metavar="ID", help="ids of the images to keep")
    command.add_argument("--classes", nargs="+", metavar="NAME", help="classes to keep; none given: all that occur")
    command.add_argument("--out", type=Path, required=True, help="the COCO file to write")
    command.add_argument(
        "--copy-images", type=Path, nargs=2, metavar=("FROM", "TO"), help="copy the images too, between these folders"
    )
    command.set_defaults(run=_subset)


def _subset(options: argparse.Namespace) -> int:
    from refexp.datatools import subset

    content = subset.subset(options.annotations, options.images, options.classes)
    if options.copy_images:
        subset.copy_images(content, *options.copy_images)
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    print(", ".join(f"{category['name']} ({counts[category['id']]})" for category in content["categories"]))
    return _write(options.out, content)


def _add_boxes2masks(commands: Any) -> None:
    command = commands.add_parser("boxes2masks", help="masks for the annotations of a COCO file that have a box only")
    command.add_argument("annotations", type=Path, help="a COCO file")
    command.add_argument("--images", type=Path, required=True, help="the folder of its images")
    command.add_argument("--out", type=Path, required=True, help="the COCO file to write")
    command.add_argument("--proposer", default="sam2_hiera_l", help="who makes the masks; default: sam2_hiera_l")
    command.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help="folder of the official weights")
    command.add_argument("--overlays", type=Path, help="folder for pictures of the masks, to check by eye")
    command.add_argument("--weights", default="official", choices=("official", "random"), help="random: for tests only")
    command.set_defaults(run=_boxes2masks)


def _boxes2masks(options: argparse.Namespace) -> int:
    wait_briefly()
    from refexp.config.composing import resolve
    from refexp.datatools.boxes2masks import boxes2masks
    from refexp.machine.runtime import Runtime, keep_heap

    overrides = [f"proposer={options.proposer}", f"weights={options.weights}", f"checkpoints.dir={options.checkpoints}"]
    settings = resolve(compose_config(overrides))
    keep_heap()
    proposer, device = build(settings["proposer"], "--proposer"), Runtime().prepare()
    if options.weights == "random":
        print("RANDOM WEIGHTS: the masks mean nothing.", file=sys.stderr)
    return _write(options.out, boxes2masks(options.annotations, options.images, proposer, device, options.overlays))


def _add_synthetic(commands: Any) -> None:
    command = commands.add_parser("synthetic", help="drawn references and photographs, to try things on")
    command.add_argument("folder", type=Path, help="the folder to write")
    command.add_argument("--classes", nargs="+", default=["ladybird", "leaf", "starfish"], metavar="NAME")
    command.add_argument("--references", type=_from(1), default=5, help="images of each class; default: 5")
    command.add_argument("--photos", type=_from(1), default=8, help="images to search; default: 8")
    command.add_argument("--seed", type=_from(0), default=0)
    command.set_defaults(run=_synthetic)


def _synthetic(options: argparse.Namespace) -> int:
    from refexp.datatools import draw

    classes = list(dict.fromkeys(options.classes))
    content = draw.write_folder(options.folder, classes, options.references, options.photos, options.seed)
    print(f"SYNTHETIC: {len(content['images'])} photos of {', '.join(classes)} in {options.folder}")
    return 0


def _from(lowest: int) -> Callable[[str], int]:
    """A type of arguments: a whole number that is at least this."""

    def number(text: str) -> int:
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"must be {lowest} or more, not {text}")
        return int(text)

    return number


def _check_out(path: Path | None) -> None:
    """Raise RefexpError if nothing can be written there, before the work is done."""
    if path is None:
        return
    if path.is_dir():
        raise RefexpError(f"--out: {path} is a folder; name a file in it.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RefexpError(f"--out: cannot write {path}: {above} is no folder that one may write to.")


def _write(path: Path, content: dict[str, Any]) -> int:
    write_json(path, content)
    print(f"{path}: {len(content['images'])} images, {len(content['annotations'])} annotations")
    return 0
