"""The nearest centroid of each of many vectors, 32 vectors at a time. Knows bytes and floats; knows no cell and no training.

Vectors take the place that query tokens have in a search: rounded to 8 bits (of their own scale), so that a processor with AVX-512 VNNI
compares one of them with a centroid of 128 dimensions in less than a nanosecond, where a float32 matrix product needs ten. The nearest by
Euclid has the largest ``x . c - |c|^2 / 2``.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.kernels.llvm_vectors import I32, at, place_of, spread
from rag.kernels.warp_score_dots import dots
from rag.kernels.warp_score_lanes import GROUPS, WIDTHS, lane_places, product_way

_LANES = WIDTHS[-1]


def _nearer(
    typing_context: Any,
    row: Any,
    num_bytes: Any,
    numbers: Any,
    offsets: Any,
    units: Any,
    step: Any,
    half: Any,
    name: Any,
    best: Any,
    found: Any,
) -> Any:
    """Lanes in which ``(dots + offsets) * units * step - half`` is above ``best`` take it, and ``name`` into ``found`` (int32)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        given, size, table, offset, unit, multiplier, less, number, best_of, found_of = arguments
        products = dots(builder, _LANES, given, table, size, product_way())
        floats, whole_numbers = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(I32, _LANES)
        offset, unit, known = (builder.load(place_of(builder, where, floats), align=4) for where in (offset, unit, best_of))
        names = builder.load(place_of(builder, found_of, whole_numbers), align=4)
        scaled = builder.fmul(unit, spread(builder, multiplier, _LANES))
        score = builder.fsub(
            builder.fmul(builder.fadd(builder.sitofp(products, floats), offset), scaled), spread(builder, less, _LANES)
        )
        nearer = builder.fcmp_ordered(">", score, known)
        builder.store(builder.select(nearer, score, known), place_of(builder, best_of, floats), align=4)
        taken = builder.select(nearer, spread(builder, number, _LANES), names)
        builder.store(taken, at(builder, place_of(builder, found_of, whole_numbers), ir.Constant(ir.IntType(64), 0)), align=4)
        return context.get_dummy_value()

    address = types.uintp
    signature = types.void(
        address, types.int64, address, address, address, types.float32, types.float32, types.int32, address, address
    )  # fmt: skip
    return signature, generate


_keep_nearer: Any = intrinsic(_nearer)


@numba.njit(nogil=True, cache=True)
def _fill_lanes(
    vectors: Any, rows: Any, first: int, last: int, places: Any, group: int, packed: Any, units: Any, offsets: Any
) -> None:  # pragma: no cover - compiled
    """Rounds up to 32 vectors into ``packed``: ``warp_score_lanes.packed_lanes``, flat."""
    dim = vectors.shape[1]
    for lane in range(last - first):
        row, own = rows[first + lane], places[lane]
        largest = np.float32(1e-30)
        for place in range(dim):
            largest = max(largest, abs(vectors[row, place]))
        inverse, total = np.float32(127) / largest, np.float32(0)
        for place in range(dim):
            number = np.rint(vectors[row, place] * inverse)
            total += number
            packed[(place // group * 32 + own) * group + place % group] = np.int32(number)
        units[lane] = largest / np.float32(127)
        offsets[lane] = np.float32(-128) * total


@numba.njit(nogil=True, cache=True)
def _nearest(
    vectors: Any, rows: Any, levels: Any, steps: Any, halves: Any, first: int, last: int,
    places: Any, group: int, packed: Any, best: Any, found: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    dim = vectors.shape[1]
    units, offsets = np.zeros(32, np.float32), np.zeros(32, np.float32)
    scores, names = np.empty(32, np.float32), np.empty(32, np.int32)
    for start in range(0, len(rows), 32):
        stop = min(start + 32, len(rows))
        _fill_lanes(vectors, rows, start, stop, places, group, packed, units, offsets)
        for lane in range(stop - start):
            scores[lane] = best[rows[start + lane]]
            names[lane] = found[rows[start + lane]]
        for centroid in range(first, last):
            _keep_nearer(
                levels.ctypes.data + centroid * dim, dim, packed.ctypes.data, offsets.ctypes.data, units.ctypes.data, steps[centroid],
                halves[centroid], np.int32(centroid), scores.ctypes.data, names.ctypes.data,
            )  # fmt: skip
        for lane in range(stop - start):
            best[rows[start + lane]] = scores[lane]
            found[rows[start + lane]] = names[lane]


def keep_nearest(
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    levels: NDArray[np.uint8],
    steps: NDArray[np.float32],
    halves: NDArray[np.float32],
    first: int,
    last: int,
    best: NDArray[np.float32],
    found: NDArray[np.int32],
) -> None:
    """Compares ``vectors[rows]`` with the centroids ``(levels - 128) * steps`` from ``first`` to ``last``.

    Where one is nearer than what ``best`` and ``found`` (of all vectors) know, its score and number are written there. ``halves``: half of
    the squared length of each centroid. ``dim`` is a multiple of 16.
    """
    way = product_way()
    packed = np.zeros(_LANES * vectors.shape[1], np.int16 if way == "plain" else np.int8)
    _nearest(vectors, rows, levels, steps, halves, first, last, lane_places(_LANES, way), GROUPS[way], packed, best, found)


def reference_nearest(
    vectors: NDArray[np.float32], levels: NDArray[np.uint8], steps: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Largest score and its centroid for every vector, in float64 without rounding."""
    centroids = (levels.astype(np.float64) - 128) * steps[:, None]
    scores = vectors.astype(np.float64) @ centroids.T - (centroids**2).sum(1) / 2
    return scores.max(1), scores.argmax(1)


@numba.njit(nogil=True, cache=True)
def sums_by(vectors: Any, rows: Any, chosen: Any, first: int, sums: Any, counts: Any) -> None:  # pragma: no cover - compiled
    """Adds each of ``vectors[rows]`` to ``sums[chosen - first]`` and counts it."""
    for row in rows:
        own = chosen[row] - first
        counts[own] += 1
        for place in range(vectors.shape[1]):
            sums[own, place] += vectors[row, place]


@numba.njit(nogil=True, cache=True)
def largest_of(scores: Any, num_wanted: int) -> Any:  # pragma: no cover - compiled
    """The columns of the ``num_wanted`` largest of each row of ``scores``, falling; ``(n, num_wanted)``."""
    found = np.empty((len(scores), num_wanted), np.int64)
    best = np.empty(num_wanted, np.float32)
    for row in range(len(scores)):
        best[:] = -np.inf
        for column in range(scores.shape[1]):
            score = scores[row, column]
            if score > best[num_wanted - 1]:
                place = num_wanted - 1
                while place > 0 and score > best[place - 1]:
                    best[place], found[row, place] = best[place - 1], found[row, place - 1]
                    place -= 1
                best[place], found[row, place] = score, column
    return found
