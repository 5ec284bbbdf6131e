"""The steps of a multi-vector search on a processor: compiled loops over lanes of bytes. Knows tensors; checks no shape. See ``warp_score``.

A table of bytes, one per lane and centroid, stands in the cache (512 KB for 16,384 centroids and 32 lanes) while a document reads two
bytes of index per distinct centroid. Residual codes are multiplied as bytes, which are unpacked in registers, by the
instructions that the processor has (``warp_score_dots``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numba
import numpy as np

from rag.kernels.memory_hints import prefetch
from rag.kernels.warp_score_dots import (
    scores_2_16,
    scores_2_32,
    scores_4_16,
    scores_4_32,
    scores_5_16,
    scores_5_32,
    scores_8_16,
    scores_8_32,
)
from rag.kernels.warp_score_lanes import lane_bytes_16, lane_bytes_32, lane_max_16, lane_max_32, packed_lanes

if TYPE_CHECKING:
    from torch import Tensor

    from rag.kernels.warp_score import CentroidScores, Lanes, Split
    from rag.kernels.warp_score_codes import Coded

_NO_MASK = np.zeros(0, np.bool_)
_RUNS_AHEAD = 8
"""So many runs before a centroid's scores are read they are asked for: the scores of all centroids stand in no fast cache."""


def lanes_of_cpu(query: Tensor, width: int) -> tuple[Tensor, Tensor, int, Tensor]:
    """See ``warp_score.lanes_of``. In numpy: on so few numbers most of what torch does is overhead."""
    import torch

    given = query.numpy()
    units, numbers = np.zeros(width, np.float32), np.zeros((width, given.shape[1]), np.int8)
    units[: len(given)] = np.abs(given).max(1) / np.float32(127)
    numbers[: len(given)] = np.rint(given / np.maximum(units[: len(given), None], np.float32(1e-30)))
    return torch.from_numpy(numbers), torch.from_numpy(units), len(given), torch.from_numpy(packed_lanes(numbers))


def centroid_scores_cpu(lanes: Lanes, levels: Tensor, steps: Tensor, span: float, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    """See ``warp_score.centroid_scores``: its three tensors."""
    import torch

    num_centroids, width = len(levels), len(lanes.units)
    scores, table = torch.empty(num_centroids, width), torch.empty(num_centroids, width, dtype=torch.uint8)
    out, largest = scores.numpy(), list[Any]()
    packed, units, given, given_steps = lanes.packed.numpy(), lanes.units.numpy(), levels.numpy(), steps.numpy()
    offsets = (lanes.numbers.numpy().sum(1, dtype=np.int64) * -128).astype(np.float32)
    nothing = np.zeros(width, np.float32)

    def score(first: int, last: int) -> None:
        own = np.full(width, -np.inf, np.float32)
        _score_centroids(given, given_steps, packed, units, offsets, nothing, first, last, out, own)
        largest.append(own)

    split(num_centroids, 4096, score)
    floors = np.max(largest, axis=0) - np.float32(span)
    _fill(out, floors, np.float32(255 / span), table.numpy())
    return scores, table, torch.from_numpy(floors)


def interaction_cpu(table: Tensor, runs: Tensor, run_starts: Tensor, allowed: Tensor | None, split: Split) -> Tensor:
    """See ``warp_score.interaction``."""
    import torch

    found = torch.empty(len(run_starts) - 1, dtype=torch.int32)
    out, given, own, starts = found.numpy(), table.numpy(), runs.numpy(), run_starts.numpy()
    mask = _NO_MASK if allowed is None else allowed.numpy()
    split(len(out), 2048, lambda first, last: _interact(given, own, starts, mask, first, last, out))
    return found


def document_scores_cpu(lanes: Lanes, centroids: CentroidScores, coded: Coded, rows: Tensor, split: Split) -> Tensor:
    """See ``warp_score.document_scores``."""
    import torch

    found = torch.empty(len(rows))
    out, chosen, scores = found.numpy(), rows.numpy(), centroids.scores.numpy()
    packed, units = lanes.packed.numpy(), lanes.units.numpy()
    offsets = -(lanes.numbers.numpy().astype(np.float32) @ coded.middles)
    arrays, unit, num_fine = coded.arrays, np.float32(coded.scale_unit), coded.num_fine

    def score(first: int, last: int) -> None:
        _score_documents(
            chosen, first, last, scores, *arrays, unit, packed, units, offsets, lanes.num_tokens, coded.bits, num_fine, out
        )

    split(len(out), 32, score)
    return found


def top_rows_cpu(values: Tensor, k: int, largest: int) -> Tensor:
    """See ``warp_score.top_rows``: the rows."""
    import torch

    return torch.from_numpy(_best_rows(values.numpy(), k, largest))


@numba.njit(nogil=True, cache=True)
def _score_centroids(
    levels: Any, steps: Any, packed: Any, units: Any, offsets: Any, nothing: Any, first: int, last: int, scores: Any, largest: Any
) -> None:  # pragma: no cover - compiled
    """Fills ``scores[first:last]`` and keeps each lane's largest score in ``largest``. ``nothing``: zeros, what a centroid stands on."""
    dim, width = levels.shape[1], scores.shape[1]
    table, offset, unit, base = packed.ctypes.data, offsets.ctypes.data, units.ctypes.data, nothing.ctypes.data
    for centroid in range(first, last):
        row, out = levels.ctypes.data + centroid * dim, scores.ctypes.data + centroid * width * 4
        if width == 16:
            scores_8_16(row, dim, dim, table, offset, unit, steps[centroid], base, out, largest.ctypes.data)
        else:
            scores_8_32(row, dim, dim, table, offset, unit, steps[centroid], base, out, largest.ctypes.data)


@numba.njit(nogil=True, cache=True)
def _fill(scores: Any, floors: Any, factor: Any, table: Any) -> None:  # pragma: no cover - compiled
    width = scores.shape[1]
    for centroid in range(scores.shape[0]):
        row, out = scores.ctypes.data + centroid * width * 4, table.ctypes.data + centroid * width
        if width == 16:
            lane_bytes_16(row, floors.ctypes.data, factor, out)
        else:
            lane_bytes_32(row, floors.ctypes.data, factor, out)


@numba.njit(nogil=True, cache=True)
def _interact(
    table: Any, runs: Any, run_starts: Any, allowed: Any, first: int, last: int, out: Any
) -> None:  # pragma: no cover - compiled
    for row in range(first, last):
        if len(allowed) and not allowed[row]:
            out[row] = -1
        elif table.shape[1] == 16:
            out[row] = lane_max_16(table.ctypes.data, runs.ctypes.data, run_starts[row], run_starts[row + 1])
        else:
            out[row] = lane_max_32(table.ctypes.data, runs.ctypes.data, run_starts[row], run_starts[row + 1])


@numba.njit(nogil=True, cache=True)
def _best_rows(values: Any, num_wanted: int, largest: int) -> Any:  # pragma: no cover - compiled
    """The rows of the ``num_wanted`` largest ``values`` that are not negative, largest first; of equal ones, the first rows first.

    Counts values instead of comparing them.
    """
    counts = np.zeros(largest + 1, np.int64)
    for value in values:
        if value >= 0:
            counts[value] += 1
    places, size, border = np.empty(largest + 1, np.int64), 0, largest + 1  # ``places``: of the next row with each value
    while border > 0 and size < num_wanted:
        border -= 1
        places[border] = size
        size += counts[border]
    found = np.empty(min(size, num_wanted), np.int64)
    for row in range(len(values)):
        value = values[row]
        if value >= border:
            if places[value] < num_wanted:
                found[places[value]] = row
            places[value] += 1
    return found


@numba.njit(nogil=True, cache=True)
def _score_token(
    bits: int, width: int, row: Any, dim: int, num_fine: int, table: Any, offset: Any, unit: Any, scale: Any,
    base: Any, out: Any, best: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    if width == 16:
        if bits == 4:
            scores_4_16(row, dim, num_fine, table, offset, unit, scale, base, out, best)
        elif bits == 5:
            scores_5_16(row, dim, num_fine, table, offset, unit, scale, base, out, best)
        elif bits == 8:
            scores_8_16(row, dim, num_fine, table, offset, unit, scale, base, out, best)
        else:
            scores_2_16(row, dim, num_fine, table, offset, unit, scale, base, out, best)
    elif bits == 4:
        scores_4_32(row, dim, num_fine, table, offset, unit, scale, base, out, best)
    elif bits == 5:
        scores_5_32(row, dim, num_fine, table, offset, unit, scale, base, out, best)
    elif bits == 8:
        scores_8_32(row, dim, num_fine, table, offset, unit, scale, base, out, best)
    else:
        scores_2_32(row, dim, num_fine, table, offset, unit, scale, base, out, best)


@numba.njit(nogil=True, cache=True)
def _expect(
    row: int, token_starts: Any, run_starts: Any, runs: Any, run_lengths: Any, codes: Any, scales: Any
) -> None:  # pragma: no cover - compiled
    """Asks for the beginnings of a document's arrays: the processor foresees only what follows them."""
    token, run = token_starts[row], run_starts[row]
    address = codes.ctypes.data + token * codes.shape[1]
    for line in range(4):
        prefetch(address + line * 64)
    prefetch(scales.ctypes.data + token)
    prefetch(scales.ctypes.data + token + 64)
    prefetch(runs.ctypes.data + run * 2)
    prefetch(runs.ctypes.data + run * 2 + 64)
    prefetch(run_lengths.ctypes.data + run)
    prefetch(run_lengths.ctypes.data + run + 64)


@numba.njit(nogil=True, cache=True)
def _score_documents(
    rows: Any, first: int, last: int, scores: Any,
    token_starts: Any, run_starts: Any, runs: Any, run_lengths: Any, codes: Any, scales: Any, scale_unit: Any,
    packed: Any, units: Any, offsets: Any, num_tokens: int, bits: int, num_fine: int, out: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    width, dim = scores.shape[1], packed.size // scores.shape[1]
    # scores of a token go behind the best ones, in one block of memory: an array of which only the address is used would be given back at once
    best = np.empty((2, width), np.float32)[0]
    table, unit, offset = packed.ctypes.data, units.ctypes.data, offsets.ctypes.data
    maxima, row_bytes, base_bytes = best.ctypes.data, codes.shape[1], width * 4
    scratch = maxima + base_bytes
    for place in range(first, last):
        row = rows[place]
        if place + 1 < last:
            _expect(rows[place + 1], token_starts, run_starts, runs, run_lengths, codes, scales)
        best[:] = -np.inf
        run, end, stop = run_starts[row] - 1, token_starts[row], run_starts[row + 1]  # ``end``: where the tokens of ``run`` end
        base = scores.ctypes.data
        for ahead in range(run + 1, min(run + 1 + _RUNS_AHEAD, stop)):
            address = scores.ctypes.data + np.int64(runs[ahead]) * base_bytes
            prefetch(address)
            if width == 32:
                prefetch(address + 64)
        given = codes.ctypes.data + token_starts[row] * row_bytes
        for one in range(token_starts[row], token_starts[row + 1]):
            if one == end:
                run += 1
                end += np.int64(run_lengths[run])
                base = scores.ctypes.data + np.int64(runs[run]) * base_bytes
                if run + _RUNS_AHEAD < stop:
                    address = scores.ctypes.data + np.int64(runs[run + _RUNS_AHEAD]) * base_bytes
                    prefetch(address)
                    if width == 32:
                        prefetch(address + 64)
            scale = np.float32(scales[one]) * scale_unit
            _score_token(bits, width, given, dim, num_fine, table, offset, unit, scale, base, scratch, maxima)
            given += row_bytes
        total = np.float32(0)
        for lane in range(num_tokens):
            total += best[lane]
        out[place] = total
