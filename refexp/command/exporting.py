"""`refexp store export`: write the entries of a data set, with a manifest of its images, into a store of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from refexp.config.components import build_experiment, told_how_to_get
from refexp.data.coco import Record, Split
from refexp.data.sampling import candidates
from refexp.errors import RefexpError
from refexp.experiment.prepare import extractor_of
from refexp.method.extraction import Extractor
from refexp.store.travel import Manifest, copy_entries
from refexp.types import Reference


def export(config: DictConfig, out: Path) -> str:
    """Export all targets, and all references that are in the store. Returns a line that says how many.

    Raises RefexpError if a target is not in the store.
    """
    with told_how_to_get(config):
        job = build_experiment(config)
        data = job.dataset.load()
    extractor = extractor_of(replace(job, stage="ablate"))
    targets = data.targets.first(job.input.limit)
    lacking = [record for record in targets.images.values() if not _held(extractor, targets, record)]
    if lacking:
        raise RefexpError(
            f"store.dir: {len(lacking)} of {len(targets.images)} targets are not in {job.store.dir}, first "
            f"{lacking[0]['file_name']}; run stage=extract first."
        )
    references, keys = _references(extractor, data.references, job.shots)
    keys += [extractor.first_key(targets, record) for record in targets.images.values()]
    count = copy_entries(job.store, keys, out)
    used = {reference.image_id: data.references.images[reference.image_id] for reference in references}
    images = {
        "references": _listed(data.references, used.values()),
        "targets": _listed(targets, targets.images.values()),
    }
    Manifest(images, {part: job.config[part] for part in ("dataset", "encoder", "proposer")}).write(out)
    return f"{count} entries of {len(targets.images)} targets and {len(references)} references exported to {out}"


def _held(extractor: Extractor, split: Split, record: Record) -> bool:
    """Whether the store has a target, if need be under the size that its file has."""
    if extractor.needs(split, record):
        split.settle_size(record)
    return not extractor.needs(split, record)


def _references(extractor: Extractor, split: Split, shots: Any) -> tuple[list[Reference], list[str]]:
    """Return the references that some run can choose and the store has, and the keys of their entries."""
    offered = [split.reference(annotation) for annotation in candidates(split, shots)]
    first = [reference for reference in offered if not extractor.needs(split, reference)]
    keys = [extractor.first_key(split, reference) for reference in first]
    (masked,) = extractor.with_masks(split, [first])
    held = [reference for reference in masked if not extractor.needs(split, reference)]
    return held, keys + [extractor.first_key(split, reference) for reference in held]


def _listed(split: Split, records: Iterable[Record]) -> list[dict[str, Any]]:
    """What the manifest says of these images."""
    known = ("id", "file_name", "height", "width")
    return [{name: record[name] for name in known} | {"fingerprint": split.fingerprint(record)} for record in records]
