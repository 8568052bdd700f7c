"""Masks as sorted intervals of pixels, read from COCO's run-length codes, and how many pixels two masks share.

A mask [H, W] is read column by column, so pixel (y, x) has the number x * H + y. An interval [start, end) is a run of
pixels inside the mask. To count what two masks share, their intervals are merged like two sorted lists.

Shapes: R masks, B bytes of code, V intervals of all masks together. Those of mask i are stop[i - 1] to stop[i].
"""

import numpy as np

from refexp.kernels import compiled, grown

DIGITS = 7
"""Maximum number of characters of a run. It has at most 32 bits, 5 in each character."""


@compiled
def decode(codes, ends, height, pixels, first, stop, start, end, area, box):
    """Append the intervals of masks to those of `first` masks that are there. Returns how many of the codes are valid.

    It stops at the first code that is invalid: one that is cut off, or whose runs are negative or exceed the image.
    codes: u8 [B], one code after another. ends: i64, the end of each. height, pixels: H and H * W.
    stop i64 [R], area i64 [R], box i32 [R, 4], start and end i32 [V]: written. V is at most half of B. A box is tight:
        `x1 y1 x2 y2`, of which x2 and y2 are one past the last pixel.
    """
    v = stop[first - 1] if first else 0
    p = 0
    for code in range(len(ends)):
        row, begin = first + code, v
        before = earlier = at = inside = bottom = np.int64(0)
        run, column, base, top = 0, 0, 0, height
        while p < ends[code]:
            number, digits = np.int64(0), 0
            more = True
            while more:
                if p == ends[code] or digits == DIGITS:
                    return code
                character = np.int64(codes[p]) - 48
                if character < 0 or character > 63:
                    return code
                number |= (character & 31) << (5 * digits)
                more = character & 32 != 0
                p += 1
                digits += 1
            if character & 16:
                number |= np.int64(-1) << (5 * digits)
            if run > 2:  # from the fourth run on, the code has the difference to the run two before it
                number += earlier
            if number < 0 or at + number > pixels:
                return code
            if run & 1 and number:
                start[v], end[v] = at, at + number
                v += 1
                inside += number
                while at >= base + height:
                    base += height
                    column += 1
                if v == begin + 1:
                    box[row, 0] = column
                crosses = at + number > base + height
                top = min(top, 0 if crosses else at - base)
                bottom = max(bottom, height if crosses else at + number - base)
            at += number
            earlier, before = before, number
            run += 1
        stop[row], area[row] = v, inside
        box[row, 1], box[row, 2], box[row, 3] = top, 0, bottom
        if v == begin:
            box[row] = 0
        else:
            box[row, 2] = (end[v - 1] - 1) // height + 1
    return len(ends)


@compiled
def common(start, end, a, a_stop, b, b_stop):
    """Count the pixels that intervals `a` to `a_stop` share with intervals `b` to `b_stop`."""
    if a == a_stop or b == b_stop:
        return 0
    if start[a] > start[b]:
        a, a_stop, b, b_stop = b, b_stop, a, a_stop
    last = a_stop
    while a < last:  # skip what ends before the other mask begins
        middle = (a + last) >> 1
        if end[middle] <= start[b]:
            a = middle + 1
        else:
            last = middle
    total = 0
    while a < a_stop and b < b_stop:
        a_end, b_end = end[a], end[b]
        total += max(0, min(a_end, b_end) - max(start[a], start[b]))
        a += a_end <= b_end
        b += b_end <= a_end
    return total


@compiled
def meet(box, i, j):
    """Whether two boxes, i32 [R, 4], share pixels."""
    return box[i, 0] < box[j, 2] and box[j, 0] < box[i, 2] and box[i, 1] < box[j, 3] and box[j, 1] < box[i, 3]


@compiled
def place(i, j):
    """Where a table of pairs has i and j. Pairs with a new row come after all pairs of the rows before it."""
    return max(i, j) * (max(i, j) + 1) // 2 + min(i, j)


@compiled
def sharing(rows, starts, stop, start, end, box, known):
    """Find the pairs within each group that share pixels. Returns low, high and pixels, each i32 [P].

    rows: i64 [N], the masks group by group. starts: i64 [groups + 1], of each group in `rows`, and N.
    low, high: places in `rows`, with high before low. They come sorted by low, then by high.
    known: i32, what pairs of masks share; -1 where that is not known yet, to be filled in. See `place`.
    """
    low, high, pixels = np.empty(256, np.int32), np.empty(256, np.int32), np.empty(256, np.int32)
    found = 0
    for group in range(len(starts) - 1):
        for one in range(starts[group], starts[group + 1]):
            for other in range(starts[group], one):
                i, j = rows[one], rows[other]
                at = place(i, j)
                if known[at] < 0:
                    known[at] = 0
                    if meet(box, i, j):
                        known[at] = common(
                            start, end, stop[i - 1] if i else 0, stop[i], stop[j - 1] if j else 0, stop[j]
                        )
                count = known[at]
                if count:
                    if found == len(low):
                        low, high, pixels = grown(low), grown(high), grown(pixels)
                    low[found], high[found], pixels[found] = one, other, count
                    found += 1
    return low[:found], high[:found], pixels[:found]
