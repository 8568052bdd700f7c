"""Images that cannot be read, found before anything is computed: they end the run, or they are left out of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from refexp.data.coco import Record, Split
from refexp.errors import MissingData, RefexpError
from refexp.inputs.refusals import Unreadable
from refexp.machine.progress import track
from refexp.machine.provenance import available_cores
from refexp.types import ImageId

log = logging.getLogger(__name__)

TOLD = 3
"""Number of images that an error names with their reasons."""
LISTED = 50
"""Number of skipped images that a log lists. metrics.json has all."""
THREADS = 4
"""Maximum number of images that are decoded at a time. It limits the memory."""


def unreadable(
    split: Split, records: Sequence[Record], is_needed: Callable[[Record], bool], what: str
) -> dict[ImageId, str]:
    """Decode the images that are needed. Returns the reason for each that cannot be read, by image id.

    is_needed: whether something must be computed from the image. what: the stage, for the progress.
    Raises RefexpError for an image that would be repaired, if repairs are refused.
    """

    def reason(record: Record) -> str | None:
        try:
            if is_needed(record):
                split.settle_size(record)
                split.read(record)
        except Unreadable as error:
            return error.reason
        except MissingData as error:
            return str(error)
        return None

    # Threads are enough, because decoding releases Python's global lock.
    with ThreadPoolExecutor(min(THREADS, available_cores())) as pool:
        reasons = list(track(pool.map(reason, records), len(records), what))
    return {record["id"]: why for record, why in zip(records, reasons, strict=True) if why}


def refuse(bad: Mapping[ImageId, str], split: Split, images: int, way_out: str) -> None:
    """Raise RefexpError with the number of images that cannot be read, if there are any, and the first reasons."""
    if not bad:
        return
    first = "; ".join(f"{split.images[id_]['file_name']}: {why}" for id_, why in list(bad.items())[:TOLD])
    more = f"; and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
    raise RefexpError(f"{split.source}: {len(bad)} of {images} images cannot be read. {first}{more}. {way_out}")


def without(split: Split, ids: Collection[ImageId]) -> Split:
    """Return a split without these images, and without their annotations."""
    if not ids:
        return split
    images = {id_: record for id_, record in split.images.items() if id_ not in ids}
    return replace(split, images=images, annotations=[a for a in split.annotations if a["image_id"] in images])


def tell_skipped(skipped: Sequence[Record]) -> None:
    """Log which images were left out, and why. skipped: as in `RunRecord.images_skipped`."""
    if skipped:
        log.warning("%d images were skipped, because they cannot be read:", len(skipped))
    for one in skipped[:LISTED]:
        log.warning("    %s: %s", one["file_name"], one["reason"])
    if len(skipped) > LISTED:
        log.warning("    and %d more (images_skipped in metrics.json)", len(skipped) - LISTED)
