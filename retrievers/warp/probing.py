"""Candidates by probing the nearest centroids of every query token (WARP_SELECT). Knows lists of documents by centroid, no residual.

For each lane the best centroids are probed, best first; a document's similarity with that query token is the score of the first probed
centroid that it has a token of, and for documents not met it is that of the last probed one: missing similarity imputation (WARP,
arXiv 2501.17788). Scores are the bytes of ``CentroidScores.table``, so a document's sum is an integer and lanes are merged by adding.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from rag.kernels.warp_score_lanes import lanes_at_least_16, lanes_at_least_32, lowest_bit


@numba.njit(nogil=True, cache=True)
def warp_select(
    table: Any, num_tokens: int, list_starts: Any, num_probes: int, least_entries: int
) -> Any:  # pragma: no cover - compiled
    """Which centroids to probe: ``(lanes, centroids, values, imputed)``, by lane and inside a lane by falling score.

    Of each lane, centroids of whole byte values are taken from the top until there are ``num_probes`` of them and their lists have
    ``least_entries`` entries. ``imputed`` ``(num_tokens,)``: the lowest byte taken. Bytes of 0 are never taken.
    """
    width = table.shape[1]
    counts, entries = np.zeros((width, 256), np.int64), np.zeros((width, 256), np.int64)
    least = np.full(width, 255, np.uint8)
    for lowest in (192, 144, 96, 1):  # few centroids are that good: mostly the first or second pass over the table is the last
        least[:num_tokens] = lowest
        counts[:] = 0
        entries[:] = 0
        _count(table, least, num_tokens, list_starts, counts, entries)
        short = False
        for lane in range(num_tokens):
            short |= counts[lane].sum() < num_probes or entries[lane].sum() < least_entries
        if not short:
            break
    imputed = np.empty(num_tokens, np.int64)
    for lane in range(num_tokens):
        taken, reached, value = 0, 0, 256
        while value > 1 and (taken < num_probes or reached < least_entries):
            value -= 1
            taken += counts[lane, value]
            reached += entries[lane, value]
        imputed[lane] = value
        least[lane] = value
    return (*_taken(table, least, num_tokens), imputed)


@numba.njit(nogil=True, cache=True)
def _count(
    table: Any, least: Any, num_tokens: int, list_starts: Any, counts: Any, entries: Any
) -> None:  # pragma: no cover - compiled
    width = table.shape[1]
    for centroid in range(table.shape[0]):
        bits = _at_least(table, centroid, least, width)
        size = list_starts[centroid + 1] - list_starts[centroid]
        while bits:
            lane = np.int64(lowest_bit(bits))
            bits = np.uint32(bits & (bits - np.uint32(1)))
            if lane < num_tokens:
                value = table[centroid, lane]
                counts[lane, value] += 1
                entries[lane, value] += size


@numba.njit(nogil=True, cache=True)
def _at_least(table: Any, centroid: int, least: Any, width: int) -> Any:  # pragma: no cover - compiled
    if width == 16:
        return lanes_at_least_16(table.ctypes.data + 16 * centroid, least.ctypes.data)
    return lanes_at_least_32(table.ctypes.data + 32 * centroid, least.ctypes.data)


@numba.njit(nogil=True, cache=True)
def _taken(table: Any, least: Any, num_tokens: int) -> Any:  # pragma: no cover - compiled
    width = table.shape[1]
    lanes, centroids = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)]
    for centroid in range(table.shape[0]):
        bits = _at_least(table, centroid, least, width)
        while bits:
            lane = np.int64(lowest_bit(bits))
            bits = np.uint32(bits & (bits - np.uint32(1)))
            if lane < num_tokens:
                lanes.append(lane)
                centroids.append(np.int64(centroid))
    rank = np.empty(len(lanes), np.int64)
    for place in range(len(lanes)):
        rank[place] = lanes[place] * 256 + 255 - table[centroids[place], lanes[place]]
    order = np.argsort(rank, kind="mergesort")
    found_lanes, found = np.empty(len(lanes), np.int64), np.empty(len(lanes), np.int64)
    values = np.empty(len(lanes), np.int64)
    for place in range(len(order)):
        found_lanes[place], found[place] = lanes[order[place]], centroids[order[place]]
        values[place] = table[found[place], found_lanes[place]]
    return found_lanes, found, values


@numba.njit(nogil=True, cache=True)
def probe(
    lanes: Any, centroids: Any, values: Any, imputed: Any, list_starts: Any, list_rows: Any, out: Any
) -> None:  # pragma: no cover - compiled
    """``out[row] +=`` by how much the document is above one that no lane met: sum over lanes of value - imputed value."""
    seen = np.zeros(len(out), np.uint8)
    for place in range(len(lanes)):
        lane = lanes[place]
        gain = values[place] - imputed[lane]
        if gain <= 0:
            continue
        for entry in range(list_starts[centroids[place]], list_starts[centroids[place] + 1]):
            row = list_rows[entry]
            if seen[row] != lane + 1:  # values fall inside a lane: the first one is the largest
                seen[row] = lane + 1
                out[row] += gain


def reference_probe(
    table: NDArray[np.uint8],
    imputed: NDArray[np.int64],
    list_starts: NDArray[np.int64],
    list_rows: NDArray[np.int32],
    num_rows: int,
) -> NDArray[np.int64]:
    """``(num_rows,)``: what ``warp_select`` and ``probe`` give together, from the maxima of each document."""
    best = np.tile(imputed, (num_rows, 1))
    for centroid in range(len(table)):
        rows = list_rows[list_starts[centroid] : list_starts[centroid + 1]]
        best[rows] = np.maximum(best[rows], table[centroid, : len(imputed)])
    found: NDArray[np.int64] = (best - imputed).sum(1)
    return found


def lists_of(
    runs: NDArray[np.uint16], run_starts: NDArray[np.int64], num_centroids: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Runs by centroid: ``list_starts`` ``(num_centroids + 1,)`` and ``list_rows``, the documents of each list."""
    starts = np.zeros(num_centroids + 1, np.int64)
    np.cumsum(np.bincount(runs, minlength=num_centroids), out=starts[1:])
    rows = np.empty(len(runs), np.int32)
    _fill_lists(runs, run_starts, starts[:-1].copy(), rows)
    return starts, rows


@numba.njit(nogil=True, cache=True)
def _fill_lists(runs: Any, run_starts: Any, places: Any, rows: Any) -> None:  # pragma: no cover - compiled
    for row in range(len(run_starts) - 1):
        for run in range(run_starts[row], run_starts[row + 1]):
            rows[places[runs[run]]] = row
            places[runs[run]] += 1
