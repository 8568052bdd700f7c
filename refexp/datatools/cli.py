"""The commands `refexp data ...`: prepare published data sets and your own data."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import click

from refexp.datatools.download import BY_HAND, DOWNLOADS
from refexp.errors import RefexpError
from refexp.files import write_json

# Each command imports its other modules itself, so that `refexp --help` is fast.

Names = tuple[str, ...]
PATH = click.Path(path_type=Path)
ROOT = click.option(
    "--root", type=PATH, default="data", envvar="REFEXP_DATA", show_default=True, show_envvar=True,
    help="Root folder of the data sets (data_root).",
)  # fmt: skip
ANNOTATIONS = click.argument("annotations", type=PATH)


class Command(click.Command):
    """A command whose options can take several values, as in `--years 2007 2012`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each of its values, because click accepts only one value per option."""
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        option, named = "", []  # the last "-" marks the end of the arguments
        for word, after in zip(args, [*args[1:], "-"], strict=False):
            if word.startswith("-"):
                option = word if word in several else ""
                named += [word] if not option or after.startswith("-") else []
            else:
                named += [option, word] if option else [word]
        return super().parse_args(ctx, named)


class Group(click.Group):
    """A group of such commands."""

    command_class = Command


def _writable(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Raise RefexpError if the path is not writable, before the work starts."""
    if path is None:
        return None
    if path.is_dir():
        raise RefexpError(f"--out: {path} is a folder; give a file name.")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise RefexpError(f"--out: cannot write {path}: {above} is not a writable folder.")
    return path


OUT = click.option("--out", type=PATH, required=True, callback=_writable, help="COCO file to write.")


def _write(path: Path, content: dict[str, Any]) -> None:
    write_json(path, content)
    click.echo(f"{path}: {len(content['images'])} images, {len(content['annotations'])} annotations")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Prepare published data sets and your own data.

    \b
    refexp data check                                   # published data sets: what is missing, and how to get it
    refexp data check instances.json --images photos    # your own data: what a run would repair or refuse
    refexp data download coco                           # fetch and unpack
    refexp data voc2coco DEVKIT --years 2007 --set test --out FILE
    refexp data subset ANNOTATIONS --images 42 73 --classes bird boat --out FILE
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # shows progress without a terminal


@data.command()
@click.argument("names", nargs=-1, metavar="[PATH]... [NAME]...")
@ROOT
@click.option("--images", type=PATH, help="Folder of the images of a COCO file. Default: searched beside it.")
@click.option("--fix", type=PATH, callback=_writable, help="Write the repaired COCO file here.")
def check(names: Names, root: Path, images: Path | None, fix: Path | None) -> None:
    """Check your own data, or the files of published data sets, without running anything.

    PATH is a COCO file, or a folder of references or photographs. The output lists what a run would repair, leave out
    or refuse.

    NAME is an option of the group `dataset`; without any argument, all of them are checked. The output lists what is
    missing or wrong in the data root and how to fix it.
    """
    paths = [Path(name) for name in names if Path(name).exists()]
    options = [name for name in names if not Path(name).exists()]
    if fix and (len(paths) != 1 or options):
        raise RefexpError("--fix repairs one COCO file: refexp data check FILE.json --fix OUT.json")
    complete = True
    if paths:
        from refexp.datatools.check_path import check_path

        for path in paths:
            complete = check_path(path, images, fix) and complete
    if options or not names:
        from refexp.datatools.check import print_reports

        complete = print_reports(options, root) and complete
    sys.exit(0 if complete else 1)


@data.command(help=f"Download and unpack a published data set.\n\nNAME is one of {', '.join([*DOWNLOADS, *BY_HAND])}.")
@click.argument("name")
@ROOT
@click.option("--force", is_flag=True, help="Download again, even if the files exist.")
def download(name: str, root: Path, force: bool) -> None:  # noqa: D103
    from refexp.datatools.download import download

    download(name, root, force)


@data.command()
@click.argument("devkit", type=PATH)
@click.option("--years", multiple=True, type=click.Choice(["2007", "2012"]), required=True, help="One year or both.")
@click.option("--set", "image_set", required=True, help="Name of a file in ImageSets/Main: trainval, test, ...")
@OUT
def voc2coco(devkit: Path, years: Names, image_set: str, out: Path) -> None:
    """Convert the PASCAL VOC XML files in DEVKIT (the folder VOCdevkit) to a COCO file."""
    from refexp.datatools import voc

    _write(out, voc.convert(devkit, [int(year) for year in dict.fromkeys(years)], image_set))


@data.command()
@ANNOTATIONS
@click.option("--minival", type=PATH, help="Keep only the images and annotations that this file lists.")
@click.option(
    "--out", type=PATH, callback=_writable, help="Default: lvis_v1_{train,val,minival}_refexp.json beside ANNOTATIONS."
)
def lvis(annotations: Path, minival: Path | None, out: Path | None) -> None:
    """Convert LVIS v1 (lvis_v1_train.json or lvis_v1_val.json) to a COCO file with image file names."""
    from refexp.datatools import lvis_files

    name = "lvis_v1_minival" if minival else annotations.stem
    content = lvis_files.minival(annotations, minival) if minival else lvis_files.convert(annotations)
    _write(out or annotations.with_name(f"{name}_refexp.json"), content)


@data.command()
@ANNOTATIONS
@click.option("--images", multiple=True, required=True, metavar="ID...", help="IDs of the images to keep.")
@click.option("--classes", multiple=True, metavar="NAME...", help="Classes to keep. Default: all in these images.")
@OUT
@click.option("--copy-images", type=(PATH, PATH), metavar="FROM TO", help="Also copy the images from FROM to TO.")
def subset(annotations: Path, images: Names, classes: Names, out: Path, copy_images: tuple[Path, Path] | None) -> None:
    """Write a COCO file with some images and classes of another."""
    from refexp.datatools import subset

    content = subset.subset(annotations, images, classes or None)
    if copy_images:
        subset.copy_images(content, *copy_images)
    counts = Counter(annotation["category_id"] for annotation in content["annotations"])
    click.echo(", ".join(f"{category['name']} ({counts[category['id']]})" for category in content["categories"]))
    _write(out, content)


@data.command()
@ANNOTATIONS
@click.option("--images", type=PATH, required=True, help="Folder of the images.")
@OUT
@click.option("--proposer", default="sam2_hiera_l", show_default=True, help="Proposer that makes the masks.")
@click.option("--checkpoints", type=PATH, default="checkpoints", envvar="REFEXP_CHECKPOINTS", show_default=True,
              show_envvar=True, help="Folder of the official weights.")  # fmt: skip
@click.option("--overlays", type=PATH, help="Folder for images with the masks drawn in, for inspection.")
@click.option(
    "--weights",
    type=click.Choice(["official", "random"]),
    default="official",
    help="Weights of the proposer. Use random only for tests.",
)
def boxes2masks(
    annotations: Path, images: Path, out: Path, proposer: str, checkpoints: Path, overlays: Path | None, weights: str
) -> None:
    """Add masks to the annotations of a COCO file that have only a box."""
    from refexp.machine.processes import wait_briefly

    wait_briefly()
    from refexp.config.building import build
    from refexp.config.composing import compose_config, resolve
    from refexp.datatools.boxes2masks import boxes2masks
    from refexp.machine.runtime import Runtime, keep_heap

    settings = resolve(compose_config([f"proposer={proposer}", f"weights={weights}", f"checkpoints.dir={checkpoints}"]))
    keep_heap()
    mask_maker, device = build(settings["proposer"], "--proposer"), Runtime().prepare()
    if weights == "random":
        click.echo("RANDOM WEIGHTS: the masks are meaningless.", err=True)
    _write(out, boxes2masks(annotations, images, mask_maker, device, overlays))


@data.command()
@click.argument("folder", type=PATH)
@click.option(
    "--classes", multiple=True, default=["ladybird", "leaf", "starfish"], metavar="NAME...", show_default=True
)
@click.option("--references", type=click.IntRange(1), default=5, show_default=True, help="Images per class.")
@click.option("--photos", type=click.IntRange(1), default=8, show_default=True, help="Number of target images.")
@click.option("--seed", type=click.IntRange(0), default=0)
def synthetic(folder: Path, classes: Names, references: int, photos: int, seed: int) -> None:
    """Draw references and photos into a folder, to try refexp without your own data."""
    from refexp.datatools.draw import write_folder

    content = write_folder(folder, list(dict.fromkeys(classes)), references, photos, seed)
    click.echo(f"SYNTHETIC: {len(content['images'])} photos of {', '.join(dict.fromkeys(classes))} in {folder}")


@data.command()
@click.argument("folder", type=PATH)
def coins(folder: Path) -> None:
    """Write a real photograph of coins, and three references, to try things on."""
    from refexp.datatools.coins import write_coins

    content = write_coins(folder)
    click.echo(f"{folder}/photo.jpg: {len(content['annotations'])} coins; three more in {folder}/refs/coin")
