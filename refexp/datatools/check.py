"""What is missing or wrong below a data root, for each option of the group `dataset`, and what to do about it."""

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
from refexp.data.images import read_rgb
from refexp.datatools.download import BY_HAND, DOWNLOADS, by_hand
from refexp.errors import RefexpError, data_command, did_you_mean, first_line

CONF = conf_folder()
KEYS = ("images", "reference_images", "references", "targets")
SHOTS = (1, 5, 10)
"""The numbers of shots for which data sets with a list of references per number (CD-FSOD) publish one."""
SAMPLE = 5
"""Images of each annotation file that are opened, spread evenly, to compare their size with the annotated one."""

BOXES_ONLY = (
    "the references have boxes only: a run has its proposer (SAM2, regions) make masks of those it takes; "
    "refexp data boxes2masks makes all beforehand"
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
"""Files below the root that a refexp data command makes: its words, {0} the root, and the files that it reads."""

FETCHED = {
    "coco": "coco",
    "lvis": "lvis",
    "voc": "voc2007",
    "voc/VOCdevkit/VOC2012": "voc2012",
    **{f"cdfsod/{folder}": name for name, folder in BY_HAND.items()},
}
"""The data set that `refexp data download` fetches for a path below the root: that of the longest key above it."""


def next_steps(path: str, root: Path) -> list[str]:
    """The commands, in order, that make a path below `root` that is missing; none if nobody knows."""
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
    # What lacks only some of its files is taken to be here already. Deleted, it alone is fetched again.
    items = DOWNLOADS[name]
    half = [root / made for item in items for made in item.makes if PurePosixPath(path).is_relative_to(made)]
    if half and half[0].exists():
        return [f"delete {half[0]}", data_command("download", name, "--root", root)]
    force = ["--force"] if all(item.here(root) for item in items) else []
    return [data_command("download", name, *force, "--root", root)]


@dataclass
class Report:
    """What was found for one option: `problems`, what to do about them in order, and otherwise what is there.

    notes: what is no problem, but good to know. All are sets in the order of their keys.
    """

    problems: dict[str, None] = field(default_factory=dict)
    steps: dict[str, None] = field(default_factory=dict)
    found: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)

    def add(self, problem: str, *steps: str) -> None:
        self.problems[problem] = None
        self.steps.update(dict.fromkeys(steps))


class Checker:
    """Checks options one after the other; a file that several of them use is read once."""

    def __init__(self, root: Path) -> None:
        self.root, self.read, self.look = root, cache(_read), cache(self._look)

    def check(self, name: str) -> Report:
        """Everything that the option `dataset=name` reads."""
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
        """Every path comes from an option below the root, or leads out of it, and then nobody knows."""
        steps = next_steps(path.relative_to(self.root).as_posix(), self.root) if path.is_relative_to(self.root) else []
        return steps or [f"put {path} there yourself"]

    def _topmost_missing(self, path: Path) -> Path:
        """Of a missing path the first folder below the root that is not there: what lacks all is told in one line."""
        below = [folder for folder in path.parents if self.root in folder.parents]
        return next((folder for folder in reversed(below) if not folder.exists()), path)

    def _look(self, annotations: Path, folder: Path) -> tuple[int, str, str]:
        """How many images are missing, the first of them, and what is wrong with the first bad one of a sample."""
        parts: tuple[list[Record], list[Record]] = ([], [])
        for record in self.read(annotations)[0]:
            parts[(folder / record["file_name"]).is_file()].append(record)
        missing, here = parts
        return len(missing), missing[0]["file_name"] if missing else "", bad_image(here, folder)


def _read(path: Path) -> tuple[list[Record], bool]:
    """The image records of an annotation file, and whether none has a mask. Annotations are large, and not kept."""
    content = read_coco(path)
    return content["images"], not any(has_mask(annotation) for annotation in content["annotations"])


def bad_image(records: Sequence[Record], folder: Path) -> str:
    """What is wrong with the first of a few images spread evenly over `records`; nothing: an empty text."""
    for record in records[:: max(1, len(records) // SAMPLE)][:SAMPLE]:
        try:
            read_rgb(folder / record["file_name"], record["height"], record["width"])
        except RefexpError as error:
            return str(error)
    return ""


def options() -> list[str]:
    """The options of the group `dataset` that read files below the data root."""
    names = sorted(path.stem for path in (CONF / "dataset").glob("[!_]*.yaml"))
    if not names:
        raise RefexpError(
            f"no dataset options in {CONF / 'dataset'}; run this from an installation with its conf folder."
        )
    return [name for name in names if option_paths(name, Path("data"))]


def option_paths(name: str, root: Path) -> list[dict[str, Path]]:
    """The paths that `dataset=name` reads, by key, once for every number of shots if they depend on that.

    Empty for an option without files, or whose files the user names. Raises RefexpError for an unknown or broken one.
    """
    found: list[dict[str, Path]] = []
    for shots in SHOTS:
        # All that these paths may refer to, beside the option itself.
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
    """The option, its references to other keys unresolved: {"dataset": {...}}."""
    names = sorted(path.stem for path in (conf / "dataset").glob("[!_]*.yaml"))
    if name not in names:
        raise RefexpError(f"dataset={name}: no such option. {did_you_mean(name, names)}")
    try:
        content = OmegaConf.to_container(compose_config([f"dataset={name}"], conf))
    except RefexpError as error:
        raise RefexpError(f"{conf}/dataset/{name}.yaml: {error}") from None
    return {"dataset": content["dataset"]} if isinstance(content, dict) else {}


def print_reports(names: Sequence[str], root: Path) -> bool:
    """Check these options, or all, and tell, neighbours of which the same holds in one; whether all are complete."""
    checker, complete = Checker(root), True
    reports = ((name, checker.check(name)) for name in names or options())
    for report, group in groupby(reports, key=lambda pair: pair[1]):
        title = ", ".join(name for name, _ in group)
        if report.problems:
            complete = False
            lines = [f"{title}: incomplete", *report.problems, *(f"do: {step}" for step in report.steps)]
        else:
            found = ", ".join(report.found) or "reads no file below the data root"
            lines = [f"{title}: complete, {found}", *(f"note: {note}" for note in report.notes)]
        print("\n    ".join(lines), flush=True)
    return complete
