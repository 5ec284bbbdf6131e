"""Cuts a row of items into the best runs under a size limit, by dynamic programming. Knows weights and sizes; knows no text.

Best means: the sum of the weights of all pairs of items that end up in one run is as large as it can be. With
``similarity - mean similarity`` as the weight this is the objective of ClusterSemantic (Smith and Troynikov, "Evaluating
chunking strategies for retrieval", Chroma technical report, 2024); the programme goes back to Fisher, "On grouping for
maximum homogeneity" (1958), and Jackson et al., "An algorithm for optimal partitioning of data on an interval" (2005).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_WEIGHT_BITS = 40
_SUM_BITS = 62


def best_runs(
    weights_band: NDArray[np.float64],
    sizes: NDArray[np.int64],
    max_size: int,
    allowed_start: NDArray[np.bool_],
    min_size: int = 0,
) -> list[int]:
    """The indices at which the runs start, ascending, the first 0; no item at all makes no run.

    ``weights_band[i, d]``, ``(n, band)``, is the weight between items ``i`` and ``i + d``; column 0 (an item with itself) makes
    no difference, what points past the last item is not read, and pairs at a distance of ``band`` or more weigh 0.
    ``sizes``, ``(n,)``, are not negative.

    A run has at most ``max_size``, and an item above that stands alone. Under this limit the fewest runs possible start where
    ``allowed_start``, ``(n,)``, says no; then the fewest possible are under ``min_size``; then the weight is as large as
    possible. Ties: the fewest runs, then the earliest starts. Weights are rounded to 40 bits of the largest (fewer for
    more than four million pairs), so that sums are exact and ties are the same on every machine.

    Time and memory are O(n x items in the longest run). Raises ``ValueError`` if shapes do not fit together, a size is negative,
    a weight is not finite or ``max_size`` is below 1.
    """
    weights = _rounded(weights_band, sizes, max_size, allowed_start)
    num_items = len(sizes)
    in_reach = np.cumsum(weights[:, 1:], axis=1)  # [i, d - 1]: item i with the d items after it
    size_before = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    reach = np.maximum(np.searchsorted(size_before, size_before[:-1] + max_size, side="right") - 1, np.arange(num_items) + 1)
    # of the best way to cut the items from a place on: how much is wrong with it, its weight, its number of runs
    wrong, value, num_runs = (np.zeros(num_items + 1, dtype=np.int64) for _ in range(3))
    following = np.zeros(num_items, dtype=np.int64)
    extra = np.where(allowed_start, 0, num_items + 1).astype(np.int64)
    gains = np.zeros(0, dtype=np.int64)
    for start in range(num_items - 1, -1, -1):
        stop = int(reach[start])
        gains = _one_more(gains, in_reach[start], stop - start)
        ends = slice(start + 1, stop + 1)
        wrongs = wrong[ends] + (size_before[ends] - size_before[start] < min_size)
        fewest = wrongs.min()
        values = np.where(wrongs == fewest, value[ends] + gains, np.iinfo(np.int64).min)
        most = values.max()
        (tied,) = np.nonzero(values == most)
        end = start + 1 + int(tied[num_runs[ends][tied].argmin()])
        following[start] = end
        wrong[start], value[start], num_runs[start] = fewest + extra[start], most, num_runs[end] + 1
    starts, here = [], 0
    while here < num_items:
        starts.append(here)
        here = int(following[here])
    return starts


def _one_more(gains: NDArray[np.int64], in_reach: NDArray[np.int64], num_lengths: int) -> NDArray[np.int64]:
    """The weights of the runs of 1, 2, ... items from one item on, given those from the next item on."""
    longer = np.zeros(num_lengths, dtype=np.int64)
    if num_lengths > 1:
        longer[1:] = gains[: num_lengths - 1]
        near = min(num_lengths - 1, len(in_reach))
        longer[1 : near + 1] += in_reach[:near]
        if near:
            longer[near + 1 :] += in_reach[near - 1]
    return longer


def _rounded(
    weights_band: NDArray[np.float64], sizes: NDArray[np.int64], max_size: int, allowed_start: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The weights as whole numbers so small that no sum of them overflows, and 0 where there is no pair."""
    num_items = len(sizes)
    if weights_band.ndim != 2 or len(weights_band) != num_items or len(allowed_start) != num_items:
        raise ValueError(f"weights {weights_band.shape}, sizes {sizes.shape} and starts {allowed_start.shape} do not fit together")
    if max_size < 1:
        raise ValueError(f"max_size={max_size}: must be at least 1")
    if num_items and int(sizes.min()) < 0:
        raise ValueError(f"sizes must not be negative: {int(sizes.min())}")
    weights = np.array(weights_band, dtype=np.float64)
    weights[np.add.outer(np.arange(num_items), np.arange(weights.shape[1])) >= num_items] = 0.0
    weights[:, :1] = 0.0
    if not np.isfinite(weights).all():
        raise ValueError("weights must be finite numbers")
    largest = float(np.abs(weights).max(initial=0.0))
    if not largest:
        return np.zeros(weights.shape, dtype=np.int64)
    bits = min(_WEIGHT_BITS, _SUM_BITS - weights.size.bit_length())
    return np.rint(weights / largest * 2.0**bits).astype(np.int64)


def best_runs_reference(
    weights_band: NDArray[np.float64],
    sizes: NDArray[np.int64],
    max_size: int,
    allowed_start: NDArray[np.bool_],
    min_size: int = 0,
) -> list[int]:
    """What ``best_runs`` must equal, by the book: every end of the first run with the best of what remains. For short rows."""
    weights = _rounded(weights_band, sizes, max_size, allowed_start).tolist()
    num_items = len(sizes)

    def weight(start: int, end: int) -> int:
        pairs = [(i, j - i) for i in range(start, end) for j in range(i + 1, end)]
        return sum(weights[i][distance] for i, distance in pairs if distance < len(weights[i]))

    @cache
    def best(start: int) -> tuple[int, int, int, int, tuple[int, ...]]:
        """Forbidden starts, runs too small, minus the weight, number of runs, starts: the smaller the better, in this order."""
        if start == num_items:
            return 0, 0, 0, 0, ()
        found = []
        for end in range(start + 1, num_items + 1):
            size = int(sizes[start:end].sum())
            if size <= max_size or end == start + 1:
                forbidden, small, minus, count, starts = best(end)
                is_forbidden, is_small = not allowed_start[start], size < min_size
                own = (forbidden + is_forbidden, small + is_small, minus - weight(start, end), count + 1, (start, *starts))
                found.append(own)
        return min(found)

    return list(best(0)[-1])
