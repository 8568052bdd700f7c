"""A picture that cannot be drawn is one warning. All is computed by then, and the other pictures are drawn."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from refexp.errors import reason, shown

log = logging.getLogger(__name__)


@contextmanager
def harmless(what: str) -> Iterator[None]:
    """Within the block, a failure is a warning. what: the picture, as in "the overlay of a.jpg"."""
    try:
        yield
    except Exception as error:
        log.warning("%s was not drawn: %s", shown(what), reason(error))
