"""The cheap half over all targets: match, merge and compare with the truth, for any number of variants in one pass.

The outer loop is over images and the inner one over variants, so that each entry of the store is read once, and what
the variants of an image share, such as overlaps between proposals, is computed once. A single run is a pass with one
variant. Each process computes with one thread, so the bytes are the same for any number of processes and variants.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from refexp.data.coco import Record
from refexp.errors import RankFailed
from refexp.evaluation.diagnostics import Diagnostics, ImageDiagnosis
from refexp.evaluation.protocol import ByImage, Matched
from refexp.machine.progress import track
from refexp.machine.workers import spread
from refexp.method.pipeline import Matcher, Step, detect
from refexp.types import Detections, ImageId, MemoryBank, Proposals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What a variant finds in an image.

    matched: how the detections match the truth, if the evaluation goes by image. examined: for the diagnostics.
    """

    detections: Detections
    matched: Matched | None
    examined: ImageDiagnosis | None


@dataclass(frozen=True)
class Variant:
    """What a run does with the proposals of an image. with_masks: keep the masks of the detections afterwards."""

    bank: MemoryBank
    matcher: Matcher
    steps: Sequence[Step]
    evaluator: ByImage | None = None
    diagnostics: Diagnostics | None = None
    with_masks: bool = True

    def find(self, image_id: ImageId, proposals: Proposals) -> Found:
        """Detect objects in an image (METHOD 3, 4), and compare them with the truth."""
        detections = detect(image_id, proposals, self.bank, self.matcher, self.steps)
        matched = self.evaluator.match(detections) if self.evaluator else None
        examined = self.diagnostics.examine(proposals, detections) if self.diagnostics else None
        return Found(detections if self.with_masks else replace(detections, masks=[]), matched, examined)


@dataclass
class Outcome:
    """What a variant finds in all images. failed: the first image for which it raises."""

    found: dict[ImageId, Found] = field(default_factory=dict)
    failed: Record | None = None

    def note(self, record: Record, found: Found | None) -> None:
        if found is None:
            self.failed = self.failed or record
        elif self.failed is None:
            self.found[record["id"]] = found


def search(
    variants: Sequence[Variant],
    records: Sequence[Record],
    read: Callable[[Record], Proposals | None],
    compute: Callable[[Sequence[Record]], Iterable[tuple[ImageId, Proposals]]],
    workers: int,
) -> list[Outcome]:
    """Search these targets with each variant. Returns one outcome for each.

    A variant that raises ends alone: the others go on. read: reads the proposals from the store, None if they are not
    there or damaged. compute: computes those. workers: number of processes.
    Cost: O(images), and for each image O(variants) beside what they share.
    """

    def work(number: int) -> list[Found | None] | None:
        proposals = read(records[number])
        return None if proposals is None else [attempt(one, records[number]["id"], proposals) for one in variants]

    outcomes = [Outcome() for _ in variants]
    missing: list[Record] = []
    with one_thread():
        for number, of_image in track(spread(work, len(records), workers), len(records), "search"):
            if all(outcome.failed for outcome in outcomes):
                break
            if of_image is None:
                missing.append(records[number])
                continue
            for outcome, found in zip(outcomes, of_image, strict=True):
                outcome.note(records[number], found)
    by_id = {record["id"]: record for record in missing}
    for image_id, proposals in compute(missing) if missing else ():
        for outcome, variant in zip(outcomes, variants, strict=True):
            outcome.note(by_id[image_id], attempt(variant, image_id, proposals))
    return outcomes


def attempt(variant: Variant, image_id: ImageId, proposals: Proposals) -> Found | None:
    """Search an image. None if the variant raises: its own run then raises the same again."""
    with one_thread():
        try:
            return variant.find(image_id, proposals)
        except RankFailed:  # another rank has failed: a signal raises this, wherever this one is
            raise
        except Exception as error:
            log.debug("image %s: %s", image_id, error)
            return None


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread within the block: sums of matrix products depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
