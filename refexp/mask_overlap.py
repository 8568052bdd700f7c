"""How much the proposals of an image overlap and how alike they are, computed once for each pair.

Variants of an experiment that share proposals ask for many of the same pairs. Each pair is computed by itself, so a
variant gets the same bits alone as among others.
"""

from __future__ import annotations

import numpy as np

from refexp.errors import RefexpError
from refexp.kernels.cosines import cosines
from refexp.kernels.intervals import decode, sharing
from refexp.masks import Rle

LARGEST = np.iinfo(np.int32).max
"""Maximum number of pixels of an image."""


class MaskOverlap:
    """The intersections of masks and the cosines of features of one image's proposals.

    It decodes a mask when a pair needs it. Tables of pairs grow with the number of decoded masks.
    Masks and features must not change. Threads must not share an object.
    """

    def __init__(self, masks: list[Rle], features: np.ndarray, size: tuple[int, int]) -> None:
        """Take masks of `size` (H, W) and features f32 [M, C]. Nothing is decoded yet."""
        self._masks, self._features, self._size = masks, np.ascontiguousarray(features, dtype=np.float32), size
        self._row = np.full(len(masks), -1, dtype=np.int64)  # of each proposal
        self._rows = 0
        self._stop, self._area = np.empty((2, len(masks)), dtype=np.int64)
        self._box = np.empty((len(masks), 4), dtype=np.int32)
        # Enough for all masks. Memory that is never written costs nothing.
        self._start, self._end = np.empty((2, sum(len(mask["counts"]) for mask in masks) // 2), dtype=np.int32)
        self._length = np.full(len(masks), np.nan)
        self._shared = np.empty(0, dtype=np.int32)
        self._cosine = np.empty(0)

    def areas(self, index: np.ndarray) -> np.ndarray:
        """Count the pixels of proposals. index: i64 [N]. Returns i64 [N]."""
        return self._area[self._rows_of(index)]

    def sharing(self, index: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the pairs of proposals whose masks share pixels, within groups.

        index: i64 [N], the proposals group by group. starts: i64 [groups + 1], of each group in `index`, and N.

        Returns:
            low and high, i32 [P], places in `index`, high before low, and the pixels that they share, i32 [P]. Sorted
            by low, then by high.
        """
        rows = self._rows_of(index)
        self._shared = self._with_room(self._shared, -1)
        return sharing(rows, starts, self._stop, self._start, self._end, self._box, self._shared)

    def cosine(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Compute the cosines of the features of pairs of proposals. one, other: i64 [P]. Returns f64 [P]."""
        rows, others = self._rows_of(one), self._rows_of(other)
        self._cosine = self._with_room(self._cosine, np.nan)
        upper = np.maximum(rows, others)
        at = upper * (upper + 1) // 2 + np.minimum(rows, others)  # as kernels.intervals.place
        cosines(self._features, one, other, at, self._length, self._cosine)
        return self._cosine[at]

    def _rows_of(self, index: np.ndarray) -> np.ndarray:
        rows = self._row[index]
        if (rows < 0).any():
            self._decode(np.unique(index[rows < 0]))
            rows = self._row[index]
        return rows

    def _decode(self, new: np.ndarray) -> None:
        """Decode the masks of proposals that have no row. Raises RefexpError if one is not a valid code."""
        codes = [self._masks[i]["counts"] for i in new.tolist()]
        ends = np.cumsum([len(code) for code in codes])
        height, width = self._size
        valid = decode(
            np.frombuffer(b"".join(codes), dtype=np.uint8), ends, height, min(height * width, LARGEST), self._rows,
            self._stop, self._start, self._end, self._area, self._box,
        )  # fmt: skip
        if valid < len(new):
            raise RefexpError(f"masks[{new[valid]}] is not a run-length code of an image of {height} x {width} pixels.")
        self._row[new] = np.arange(self._rows, self._rows + len(new))
        self._rows += len(new)

    def _with_room(self, table: np.ndarray, unknown: float) -> np.ndarray:
        """Return a table of pairs that is large enough for all rows."""
        needed, most = (count * (count + 1) // 2 for count in (self._rows, len(self._masks)))
        if len(table) >= needed:
            return table
        new = np.full(max(needed, min(2 * len(table), most)), unknown, dtype=table.dtype)
        new[: len(table)] = table
        return new
