"""What candidates in rank order do to each other, pair by pair.

Candidates stand group by group, each group in rank order. starts: i64 [groups + 1], where each group begins, and N.
low, high: i32 [P], the places of two candidates of a group. `high` comes before `low`. Pairs are sorted by low.
"""

import numpy as np

from refexp.kernels import compiled


@compiled
def survivors(count, low, high):
    """Decide greedily which of `count` candidates stay, bool [N]: of each pair, high drops low if high itself stays."""
    stays = np.ones(count, np.bool_)
    for pair in range(len(low)):
        if stays[high[pair]]:
            stays[low[pair]] = False
    return stays


@compiled
def decayed(scores, starts, low, high, of_low, of_high):
    """Return the scores, f64 [N], after Soft-NMS: the best of a group lowers the others, then the best of the rest, ...

    of_low, of_high: f64 [P], what multiplies the score of one candidate of a pair once the other one is the best.
    """
    scores = scores.copy()
    begin = np.zeros(len(scores) + 1, np.int64)  # of each candidate, in the lists of its neighbours
    for pair in range(len(low)):
        begin[low[pair] + 1] += 1
        begin[high[pair] + 1] += 1
    begin = np.cumsum(begin)
    neighbour, factor, filled = np.empty(2 * len(low), np.int64), np.empty(2 * len(low)), begin.copy()
    for pair in range(len(low)):
        for best, other, by in ((low[pair], high[pair], of_high[pair]), (high[pair], low[pair], of_low[pair])):
            neighbour[filled[best]], factor[filled[best]] = other, by
            filled[best] += 1
    waiting = np.ones(len(scores), np.bool_)
    for group in range(len(starts) - 1):
        for _ in range(starts[group], starts[group + 1]):
            best = -1
            for one in range(starts[group], starts[group + 1]):
                if waiting[one] and (best < 0 or scores[one] > scores[best]):
                    best = one
            waiting[best] = False
            for at in range(begin[best], begin[best + 1]):
                if waiting[neighbour[at]]:
                    scores[neighbour[at]] *= factor[at]
    return scores


@compiled
def diffused(starts, low, high, weights, direct, alpha, iterations, close):
    """Repeat p <- alpha W p + (1 - alpha) v in each group, and return p, f64 [N], at least 0. See `GraphDiffusion`.

    weights: f64 [P], W of low by high. direct: f64 [N], v. A group ends when each p changes by less than `close`.
    """
    explained, before, until = np.empty(len(direct)), np.empty(len(direct)), 0
    for group in range(len(starts) - 1):
        first, last, begin = starts[group], starts[group + 1], until
        while until < len(low) and low[until] < last:
            until += 1
        explained[first:last] = 1 / max(1, last - first)
        for _ in range(iterations):
            before[first:last] = explained[first:last]
            explained[first:last] = 0.0
            for pair in range(begin, until):
                explained[low[pair]] += weights[pair] * before[high[pair]]
            change = 0.0
            for one in range(first, last):
                explained[one] = alpha * explained[one] + (1 - alpha) * direct[one]
                change = max(change, abs(explained[one] - before[one]))
            if change < close:
                break
    return explained
