"""The typed record of a run: the content of metrics.json. Does not import PyTorch, so that tables load fast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refexp.data.protocols import Protocol
from refexp.errors import RefexpError
from refexp.files import read_json

if TYPE_CHECKING:  # it imports PyTorch
    from refexp.types import ImageId

SCHEMA = 1
"""Version of metrics.json. Files of refexp 0.1 have no version number and count as 0."""

LISTS = ("classes", "classes_left_out", "categories", "images_skipped")
"""Fields that JSON holds as lists."""

PARTIAL = "PARTIAL"
"""First word of the note of a run on only the first targets (input.limit)."""

OBJECTIVES = ("segm/nAP", "bbox/nAP", "semantic/mIoU", "semantic/FB-IoU")
"""What `objective` is by default: the first that a run has."""

Numbers = dict[str, float | None]
"""Fractions in [0, 1] by name; None where no instance counts."""


@dataclass(frozen=True)
class Metrics:
    """A run's metrics.

    overall: by kind ("bbox", "segm", "semantic"), then by name ("nAP50"). per_class: by kind, name and class.
    Numbers of the protocol that does not lead have a kind of their own ("bbox@standard").
    """

    overall: dict[str, Numbers] = field(default_factory=dict)
    per_class: dict[str, dict[str, Numbers]] = field(default_factory=dict)

    @classmethod
    def from_flat(cls, flat: Mapping[str, float | None]) -> Metrics:
        """Parse `<kind>/<name>` and `<kind>/<name>/<class>`, as in metrics.json. Class names may contain slashes."""
        metrics = cls(defaultdict(dict), defaultdict(lambda: defaultdict(dict)))
        for name, value in flat.items():
            kind, number, *of_class = name.split("/", 2) if "/" in name else ("", name)
            if of_class:
                metrics.per_class[kind][number][of_class[0]] = value
            else:
                metrics.overall[kind][number] = value
        return cls(dict(metrics.overall), {kind: dict(numbers) for kind, numbers in metrics.per_class.items()})

    @property
    def flat(self) -> Numbers:
        """All metrics: `<kind>/<name>` over all classes, then `<kind>/<name>/<class>` of each class."""
        return self.flat_overall | {
            f"{kind}/{number}/{name}": value
            for kind, numbers in self.per_class.items()
            for number, by_class in numbers.items()
            for name, value in by_class.items()
        }

    @property
    def flat_overall(self) -> Numbers:
        """The metrics over all classes as `<kind>/<name>`."""
        found = ((kind, name, value) for kind, of_kind in self.overall.items() for name, value in of_kind.items())
        return {f"{kind}/{name}" if kind else name: value for kind, name, value in found}

    def __bool__(self) -> bool:
        return bool(self.overall)


@dataclass(frozen=True)
class RunRecord:
    """Configuration and results of a run: the content of metrics.json, key by key.

    config: the resolved configuration. targets: source of the targets. classes: the K names, in order.
    references: number of references per class. images, instances, detections: counts over the targets, without crowds.
    metrics: stored flat in the file. note: warning for all outputs if the run is a trial on
    the first targets, or if the weights are not the published ones.
    weights: origin, kind, file name and SHA-256 of each network's weights. stages: seconds, items and items per second.

    Records of schema 0 do not have the following keys. reference_ids: for each class the ids in references.json, each
    as often as it was used. instances_of_class: number of instances per class. categories: the targets' category id of
    each class. cwd: the folder to which relative paths of the configuration refer. repairs: what was done to the data
    so that they could be used: count and first example of each kind. images_skipped: id, file_name and
    reason of the images that could not be read. They are not among `images`, and no number counts their instances.
    protocol: the protocol that leads. It draws the references and gives the metrics without a protocol in their name.
    """

    config: dict[str, Any]
    targets: str
    seed: int
    shots: int | Literal["all"]
    classes: tuple[str, ...]
    images: int
    metrics: Metrics
    instances: int = 0
    detections: int = 0
    references: dict[str, int] = field(default_factory=dict)
    classes_left_out: tuple[str, ...] = ()
    note: str | None = None
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, dict[str, float]] = field(default_factory=dict)
    ranks: int = 1
    device: str = ""
    peak_memory_mib: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    reference_ids: dict[str, list[ImageId]] | None = None
    instances_of_class: dict[str, int] | None = None
    categories: tuple[int | str, ...] | None = None
    cwd: str | None = None
    repairs: dict[str, tuple[int, str]] = field(default_factory=dict)
    images_skipped: tuple[dict[str, Any], ...] = ()
    protocol: Protocol | None = None
    schema: int = SCHEMA

    @property
    def objective(self) -> float | None:
        """The metric that the key `objective` names. None if the run has no such metric, or no instance counts."""
        wanted = self.config.get("objective")
        metrics = self.metrics.flat
        return next((metrics[name] for name in ([wanted] if wanted else OBJECTIVES) if name in metrics), None)

    def to_json(self) -> dict[str, Any]:
        """The content of metrics.json, `metrics` first."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"metrics": self.metrics.flat} | {k: v for k, v in content.items() if k != "metrics"}

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Read the record of a finished run. Raises RefexpError if it is missing, damaged, or of a newer schema."""
        path = folder / "metrics.json"
        content = read_json(path)
        if content is None:
            raise RefexpError(f"{folder} is not the folder of a finished run: it has no metrics.json.")
        if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
            raise RefexpError(f"{path} is damaged, or not written by refexp: it has no 'metrics'.")
        schema = content.get("schema", 0)
        if schema > SCHEMA:
            raise RefexpError(f"{path} has schema {schema}, but this refexp reads only up to {SCHEMA}. Update refexp.")
        # Unknown keys are ignored, so that a minor addition to the file does not break older readers.
        known = {one.name: content[one.name] for one in fields(cls) if one.name in content}
        evaluation = (content.get("config") or {}).get("evaluation") or {}
        if evaluation.get("box_end") == "last":  # what the key was called before there were protocols
            known["protocol"] = "published"
        try:
            known |= {name: tuple(known[name]) for name in LISTS if known.get(name)}
            return cls(**known | {"metrics": Metrics.from_flat(content["metrics"]), "schema": schema})
        except TypeError as error:
            raise RefexpError(f"{path} is damaged, or not written by refexp: {error}.") from None


def partial_note(limit: int | None, targets: int) -> str | None:
    """The warning that every output shows if a run uses only the first targets; None if it uses all."""
    return f"{PARTIAL}: the first {limit} of {targets} targets." if limit is not None and limit < targets else None
