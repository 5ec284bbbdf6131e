"""Candidates by centroid interaction: every document's MaxSim over the centroids of its tokens. Knows no residual and no document text.

The scores of all centroids for up to 32 query tokens stand in a table of bytes, one per lane and centroid; a document reads one row for every
distinct centroid among its tokens and keeps the largest byte of each lane. That is two bytes of index per distinct centroid, read in
order, and a table of up to 512 KB (C = 16,384) that stays in the cache. PLAID (arXiv 2205.09707) does this for probed documents only;
up to some hundred thousand documents reading all of them is as quick (see ``probing`` for more). A score further than ``SPAN`` below
the best centroid of its query token counts as ``SPAN`` below it: the missing similarity that WARP (arXiv 2501.17788) imputes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from rag.retrievers.warp.lanes import LaneTable, lane_bytes_16, lane_bytes_32, lane_max_16, lane_max_32, scores_8_16, scores_8_32

SPAN = 0.75
"""Cosine below the best centroid at which similarities of unit vectors no longer matter for the best documents."""


class ScoreTable(NamedTuple):
    """``scores`` float32 ``(C, width)``; byte ``b`` of lane ``j`` of ``table`` uint8 ``(C, width)`` stands for ``floors[j] + b * SPAN / 255``."""

    scores: NDArray[np.float32]
    table: NDArray[np.uint8]
    floors: NDArray[np.float32]


def table_of(scores: NDArray[np.float32], largest: NDArray[np.float32]) -> ScoreTable:
    """The bytes of ``scores`` ``(C, width)`` whose largest value in each lane is ``largest`` ``(width,)``."""
    table = np.empty(scores.shape, np.uint8)
    floors = (largest - np.float32(SPAN)).astype(np.float32)
    _fill(scores, floors, np.float32(255 / SPAN), table)
    return ScoreTable(scores, table, floors)


def reference_table(scores: NDArray[np.float64]) -> ScoreTable:
    """From exact scores ``(C, width)``, in float64."""
    floors = scores.max(0) - SPAN
    table = np.clip(np.rint((scores - floors) * (255 / SPAN)), 0, 255).astype(np.uint8)
    return ScoreTable(scores.astype(np.float32), table, floors.astype(np.float32))


@numba.njit(nogil=True, cache=True)
def score_centroids(
    levels: Any, steps: Any, numbers: Any, units: Any, totals: Any, first: int, last: int, scores: Any, largest: Any
) -> None:  # pragma: no cover - compiled
    """Fills ``scores[first:last]`` (``(C, width)``) and keeps each lane's largest score in ``largest``.

    ``levels`` uint8 ``(C, dim)`` and ``steps`` float32 ``(C,)``: centroid ``c`` is ``(levels[c] - 128) * steps[c]``.
    """
    dim, width = levels.shape[1], scores.shape[1]
    offsets, nothing = np.empty(width, np.float32), np.zeros(width, np.float32)
    for lane in range(width):
        offsets[lane] = np.float32(-128) * totals[lane]
    for centroid in range(first, last):
        row, out = levels.ctypes.data + centroid * dim, scores.ctypes.data + centroid * width * 4
        if width == 16:
            scores_8_16(
                row, dim, numbers.ctypes.data, offsets.ctypes.data, units.ctypes.data, steps[centroid],
                nothing.ctypes.data, out, largest.ctypes.data,
            )  # fmt: skip
        else:
            scores_8_32(
                row, dim, numbers.ctypes.data, offsets.ctypes.data, units.ctypes.data, steps[centroid],
                nothing.ctypes.data, out, largest.ctypes.data,
            )  # fmt: skip


def reference_scores(levels: NDArray[np.uint8], steps: NDArray[np.float32], table: LaneTable) -> NDArray[np.float32]:
    """``(C, 32)``: what ``score_centroids`` computes."""
    from rag.retrievers.warp.lanes import reference_dots

    dots = reference_dots(levels, table).astype(np.float64) - 128.0 * table.totals
    return (dots * table.units * steps[:, None]).astype(np.float32)


def reference_interaction(
    table: NDArray[np.uint8], runs: NDArray[np.uint16], run_starts: NDArray[np.int64], first: int, last: int
) -> NDArray[np.int32]:
    """Sum over lanes of the largest byte of each document from ``first`` to ``last``; what ``interact`` computes."""
    return np.array(
        [table[runs[run_starts[row] : run_starts[row + 1]]].max(0, initial=0).sum() for row in range(first, last)], np.int32
    )


@numba.njit(nogil=True, cache=True)
def interact(
    table: Any, runs: Any, run_starts: Any, allowed: Any, first: int, last: int, out: Any
) -> None:  # pragma: no cover - compiled
    """``out[row] += `` the interaction of each row from ``first`` to ``last``; a row that is not allowed becomes negative.

    ``allowed``: bool ``(documents,)``, or empty when all are.
    """
    for row in range(first, last):
        if len(allowed) and not allowed[row]:
            out[row] = -1
        elif table.shape[1] == 16:
            out[row] += lane_max_16(table.ctypes.data, runs.ctypes.data, run_starts[row], run_starts[row + 1])
        else:
            out[row] += lane_max_32(table.ctypes.data, runs.ctypes.data, run_starts[row], run_starts[row + 1])


@numba.njit(nogil=True, cache=True)
def best_rows(values: Any, num_wanted: int, largest: int) -> Any:  # pragma: no cover - compiled
    """The rows of the ``num_wanted`` largest ``values`` that are not negative, ascending; of equal ones at the end, the first rows.

    ``largest``: no value is above it. Counts values instead of sorting them.
    """
    counts = np.zeros(largest + 1, np.int64)
    num_valid = 0
    for value in values:
        if value >= 0:
            counts[value] += 1
            num_valid += 1
    num_wanted = min(num_wanted, num_valid)
    above, border = 0, largest
    while border > 0 and above + counts[border] < num_wanted:
        above += counts[border]
        border -= 1
    room = num_wanted - above  # of those that have exactly the border's value
    found = np.empty(num_wanted, np.int64)
    size = 0
    for row in range(len(values)):
        value = values[row]
        if value > border or (value == border and room > 0):
            if value == border:
                room -= 1
            if size < num_wanted:
                found[size] = row
                size += 1
    return found


@numba.njit(nogil=True, cache=True)
def _fill(scores: Any, floors: Any, factor: Any, table: Any) -> None:  # pragma: no cover - compiled
    width = scores.shape[1]
    for centroid in range(scores.shape[0]):
        row, out = scores.ctypes.data + centroid * width * 4, table.ctypes.data + centroid * width
        if width == 16:
            lane_bytes_16(row, floors.ctypes.data, factor, out)
        else:
            lane_bytes_32(row, floors.ctypes.data, factor, out)
