"""Check the files of each `dataset` option in the data root: list what is missing or wrong, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from refexp.config.composing import compose_config, conf_folder
from refexp.data.coco import Record, has_mask, read_coco
from refexp.datatools.download import BY_HAND, DOWNLOADS, by_hand
from refexp.errors import RefexpError, data_command, did_you_mean, first_line
from refexp.inputs.images import read_rgb

CONF = conf_folder()
KEYS = ("images", "reference_images", "references", "targets")
SHOTS = (1, 5, 10)
"""The numbers of shots for which CD-FSOD publishes a list of references."""
SAMPLE = 5
"""Number of images per annotation file, evenly spaced, whose size is compared with the annotated size."""

BOXES_ONLY = (
    "the references have only boxes: the proposer of a run (SAM2, regions) makes the masks of the references it "
    "uses; refexp data boxes2masks makes all masks beforehand"
)


MADE: dict[str, tuple[str, tuple[str, ...]]] = {
    "voc/voc07_test.json": (
        "voc2coco {0}/voc/VOCdevkit --years 2007 --set test --out {0}/voc/voc07_test.json",
        ("voc/VOCdevkit/VOC2007/ImageSets/Main/test.txt",),
    ),
    "voc/voc0712_trainval.json": (
        "voc2coco {0}/voc/VOCdevkit --years 2007 2012 --set trainval --out {0}/voc/voc0712_trainval.json",
        ("voc/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt", "voc/VOCdevkit/VOC2012/ImageSets/Main/trainval.txt"),
    ),
    "lvis/lvis_v1_train_refexp.json": ("lvis {0}/lvis/lvis_v1_train.json", ("lvis/lvis_v1_train.json",)),
    "lvis/lvis_v1_val_refexp.json": ("lvis {0}/lvis/lvis_v1_val.json", ("lvis/lvis_v1_val.json",)),
    "lvis/lvis_v1_minival_refexp.json": (
        "lvis {0}/lvis/lvis_v1_val.json --minival {0}/lvis/lvis_v1_minival_inserted_image_name.json",
        ("lvis/lvis_v1_val.json", "lvis/lvis_v1_minival_inserted_image_name.json"),
    ),
}
"""Files that a `refexp data` command makes in the data root: its arguments ({0}: the root) and its input files."""

FETCHED = {
    "coco": "coco",
    "lvis": "lvis",
    "voc": "voc2007",
    "voc/VOCdevkit/VOC2012": "voc2012",
    **{f"cdfsod/{folder}": name for name, folder in BY_HAND.items()},
}
"""The data set that `refexp data download` fetches for a path. The longest matching parent folder decides."""


def next_steps(path: str, root: Path) -> list[str]:
    """List the commands, in order, that make a missing path in `root`. Empty if no command makes it."""
    if path in MADE:
        words, needs = MADE[path]
        steps = [step for need in needs if not (root / need).exists() for step in next_steps(need, root)]
        return [*dict.fromkeys(steps), data_command(*(word.format(root) for word in words.split()))]
    above = [key for key in FETCHED if PurePosixPath(path).is_relative_to(key)]
    if not above:
        return []
    name = FETCHED[max(above, key=len)]
    if name in BY_HAND:
        return [by_hand(name, root)]
    # `download` skips a folder that exists, even with missing files. After deletion it fetches only this folder.
    items = DOWNLOADS[name]
    half = [root / made for item in items for made in item.makes if PurePosixPath(path).is_relative_to(made)]
    if half and half[0].exists():
        return [f"delete {half[0]}", data_command("download", name, "--root", root)]
    force = ["--force"] if all(item.here(root) for item in items) else []
    return [data_command("download", name, *force, "--root", root)]


@dataclass
class Report:
    """The result of the check of one option.

    problems: what is missing or wrong. steps: how to fix it, in order. found: the complete annotation files.
    notes: information that is not a problem. All are ordered sets (the keys of a dict).
    """

    problems: dict[str, None] = field(default_factory=dict)
    steps: dict[str, None] = field(default_factory=dict)
    found: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def add(self, problem: str, *steps: str) -> None:
        """Add a problem and the steps to fix it."""
        self.problems[problem] = None
        self.steps.update(dict.fromkeys(steps))


class Checker:
    """Checks options one after the other. It reads a file that several options use only once."""

    def __init__(self, root: Path) -> None:
        self.root, self.read, self.look = root, cache(_read), cache(self._look)

    def check(self, name: str) -> Report:
        """Check every file that the option `dataset=name` reads."""
        report = Report()
        for paths in option_paths(name, self.root):
            images = paths.get("images")
            for part, folder in (("targets", images), ("references", paths.get("reference_images") or images)):
                if part in paths and folder is not None:
                    self._check_part(part, paths[part], folder, report)
        return report

    def _check_part(self, part: str, annotations: Path, folder: Path, report: Report) -> None:
        absent = [path for path in (annotations, folder) if not path.exists()]
        for path in absent:
            report.add(f"missing: {self._topmost_missing(path)}", *self._steps(path))
        if annotations in absent:
            return
        try:
            records, boxes_only = self.read(annotations)
        except RefexpError as error:
            return report.add(f"wrong: {error}", f"delete {annotations}, then check again")
        if part == "references" and boxes_only:
            report.notes[BOXES_ONLY] = None
        if folder in absent:
            return
        count, first, wrong = self.look(annotations, folder)
        if count:
            of = f"{count} of the {len(records)} images of {annotations}"
            report.add(f"missing: {of}, first {folder / first}", *self._steps(folder / first))
        if wrong:
            report.add(f"wrong: {wrong}", f"replace the images in {folder}, or {annotations}")
        report.found[f"{annotations.name} ({len(records)} images)"] = None

    def _steps(self, path: Path) -> list[str]:
        """List the steps that make a missing path. No command makes a path outside the data root."""
        steps = next_steps(path.relative_to(self.root).as_posix(), self.root) if path.is_relative_to(self.root) else []
        return steps or [f"put {path} there yourself"]

    def _topmost_missing(self, path: Path) -> Path:
        """Return the topmost missing folder of a path, so that a missing data set takes only one line."""
        below = [folder for folder in path.parents if self.root in folder.parents]
        return next((folder for folder in reversed(below) if not folder.exists()), path)

    def _look(self, annotations: Path, folder: Path) -> tuple[int, str, str]:
        """Return the number of missing images, the first missing one, and the error of the first bad sampled image."""
        parts: tuple[list[Record], list[Record]] = ([], [])
        for record in self.read(annotations)[0]:
            parts[(folder / record["file_name"]).is_file()].append(record)
        missing, here = parts
        return len(missing), missing[0]["file_name"] if missing else "", bad_image(here, folder)


def _read(path: Path) -> tuple[list[Record], bool]:
    """Read the image records of an annotation file, and whether no annotation has a mask.

    The annotations are not kept, because they are large.
    """
    content = read_coco(path)
    return content["images"], not any(has_mask(annotation) for annotation in content["annotations"])


def bad_image(records: Sequence[Record], folder: Path) -> str:
    """Return the error of the first bad image in an evenly spaced sample of `records`, or an empty string."""
    for record in records[:: max(1, len(records) // SAMPLE)][:SAMPLE]:
        try:
            read_rgb(folder / record["file_name"], record["height"], record["width"])
        except RefexpError as error:
            return str(error)
    return ""


def options() -> list[str]:
    """List the options of the group `dataset` that read files in the data root."""
    return [name for name in option_names(CONF) if option_paths(name, Path("data"))]


def option_names(conf: Path) -> list[str]:
    """List the options of the group `dataset`."""
    return sorted(path.stem for path in (conf / "dataset").glob("[!_]*.yaml"))


def option_paths(name: str, root: Path) -> list[dict[str, Path]]:
    """Return the paths that `dataset=name` reads, by config key: one dict, or one per number of shots if they differ.

    The list is empty for an option without files and for an option whose files the user sets.
    Raises RefexpError for an unknown or invalid option.
    """
    found: list[dict[str, Path]] = []
    for shots in SHOTS:
        # The only keys outside the option that these paths interpolate.
        around = {"data_root": str(root), "shots": {"n": shots}}
        try:
            node = OmegaConf.create({**_composed(name, CONF), **around}).dataset
            values = {key: node[key] for key in KEYS if key in node and not OmegaConf.is_missing(node, key)}
        except OmegaConfBaseException as error:
            raise RefexpError(f"{CONF}/dataset/{name}.yaml: {first_line(error)}") from None
        paths = {key: Path(value) for key, value in values.items() if isinstance(value, str)}
        if "targets" in paths and paths not in found:
            found.append(paths)
    return found


@cache
def _composed(name: str, conf: Path) -> dict[str, Any]:
    """Compose the option without resolving its interpolations: {"dataset": {...}}."""
    if name not in option_names(conf):
        raise RefexpError(f"dataset={name}: unknown option. {did_you_mean(name, option_names(conf))}")
    try:
        return {"dataset": OmegaConf.to_container(compose_config([f"dataset={name}"], conf).dataset)}
    except RefexpError as error:
        raise RefexpError(f"{conf}/dataset/{name}.yaml: {error}") from None


def print_reports(names: Sequence[str], root: Path) -> bool:
    """Check the given options (default: all) and print one block per group of equal results.

    Returns whether all options are complete.
    """
    checker, complete = Checker(root), True
    reports = ((name, checker.check(name)) for name in names or options())
    for report, group in groupby(reports, key=lambda pair: pair[1]):
        title = ", ".join(name for name, _ in group)
        if report.problems:
            complete = False
            lines = [f"{title}: incomplete", *report.problems, *(f"do: {step}" for step in report.steps)]
        else:
            found = ", ".join(report.found) or "reads no files in the data root"
            lines = [f"{title}: complete, {found}", *(f"note: {note}" for note in report.notes)]
        print("\n    ".join(lines), flush=True)
    return complete
