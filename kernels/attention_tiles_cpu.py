"""Attention in vectors of rows: one compiled pass over tiles of rows and blocks of keys. Knows addresses; checks no shape.

A job is some tokens of the query heads that share a key head, folded into rows. Every row has the first and the last key it sees, both ascending with
the token: blocks of keys that all rows of a tile see go without a mask, only those at an edge with one. The softmax goes along (FlashAttention,
arXiv 2205.14135), no score is kept. What a tile needs of keys and values is read once for some tiles of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

from rag.kernels import choose
from rag.kernels.attention_matrix import (
    AS_MATRIX,
    CONFIGURATION,
    STEP_KEYS,
    TILE,
    add_values_16,
    close_registers,
    open_registers,
    score_16,
    turn_pairs,
)
from rag.kernels.attention_vectors import LANES, MOST_VECTORS, TILE_KEYS, add_values, gather_16, scatter_16, score
from rag.kernels.crew import each
from rag.kernels.exponential import LOG2_E
from rag.kernels.numbers_cpu import array_at, bits, narrow, pointer
from rag.kernels.softmax_vectors import NOTHING, cap, hide, weigh

if TYPE_CHECKING:
    from torch import Tensor

Integers = NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])
compiled: Callable[[Function], Function] = cast(Any, numba.njit)
"""Its own annotation knows functions of few arguments only."""

TILE_ROWS = MOST_VECTORS * LANES
JOB_TILES = 8
"""Tiles of a job at most: each block of keys and values is read once for all of them."""
BLOCK_KEYS = 64
"""Keys between two looks at the largest score: their weights for a tile, 12 KiB, stay in the first cache."""
MATRIX_BLOCK_KEYS = 192
"""The same where products go in matrix registers, which are done before their sums are read and written again: a fifth to a quarter less time than with 64."""
PARTS_PER_THREAD = 4
(
    QUERIES, KEYS, VALUES, OUT, LSE, LOWEST, HIGHEST, TOKENS,
    TO_TOKEN, TO_HEAD, TO_KEY, TO_VALUE, OUT_TO_TOKEN, OUT_TO_HEAD, LSE_TO_HEAD,
) = range(15)  # fmt: skip
"""Columns of a job: addresses of its first query, its key head's first key and value, its first output and logarithm, of the first and the last key that its
tokens see; its tokens; then bytes from token to token and from query head to query head, from key to key and so on."""


def jobs_of(
    queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, lse: Tensor | None, lowest: Tensor, highest: Tensor,
    first: Integers, last: Integers, first_key: Integers,
) -> Integers:  # fmt: skip
    """A job for every key head and every piece: the tokens ``first .. last`` of ``queries`` ``(Hq, T, Dk)`` over the keys from row ``first_key`` on.

    ``lowest`` and ``highest`` int32 ``(T,)``, contiguous: the first and the last key that a token sees, counted from ``first_key``, both ascending within
    a piece, and no token sees none. ``out`` is ``(T, Hq, Dv)``, ``lse`` ``(Hq, T)`` or not wanted. See ``tokens_of_a_job`` for how long a piece may be.
    """
    size, group = keys.element_size(), len(queries) // len(keys)
    (to_head, to_token, _), (key_head, to_key, _), (value_head, to_value, _) = (
        [size * step for step in each.stride()] for each in (queries, keys, values)
    )
    out_to_token, out_to_head, _ = (size * step for step in out.stride())
    lse_to_head = 4 * lse.stride(0) if lse is not None else 0
    jobs = np.empty((len(first), len(keys), 15), np.int64)
    head, token, key = np.arange(len(keys)), first[:, None], first_key[:, None]
    jobs[:, :, QUERIES] = queries.data_ptr() + head * group * to_head + token * to_token
    jobs[:, :, KEYS] = keys.data_ptr() + head * key_head + key * to_key
    jobs[:, :, VALUES] = values.data_ptr() + head * value_head + key * to_value
    jobs[:, :, OUT] = out.data_ptr() + head * group * out_to_head + token * out_to_token
    jobs[:, :, LSE] = 0 if lse is None else lse.data_ptr() + head * group * lse_to_head + 4 * token
    jobs[:, :, LOWEST], jobs[:, :, HIGHEST] = lowest.data_ptr() + 4 * token, highest.data_ptr() + 4 * token
    jobs[:, :, TOKENS] = (last - first)[:, None]
    jobs[:, :, TO_TOKEN:] = [to_token, to_head, to_key, to_value, out_to_token, out_to_head, lse_to_head]
    return jobs.reshape(-1, 15)


def tokens_of_a_job(group: int, num_rows: int) -> int:
    """How many tokens of ``group`` query heads make a job where there are ``num_rows`` in all: some jobs for every thread, if there are rows enough."""
    import torch

    wanted = num_rows // (PARTS_PER_THREAD * torch.get_num_threads())
    return max(1, min(JOB_TILES, max(1, wanted // TILE_ROWS)) * TILE_ROWS // group)


def attend(jobs: Integers, queries: Tensor, values: Tensor, group: int, *, scale: float, softcap: float | None) -> None:
    """Computes all jobs, the first of them first. ``queries`` and ``values`` give types and dimensions only."""
    import torch

    size, dim = queries.element_size(), values.shape[-1]
    words = queries.shape[-1] * size // 4
    in_matrix = size == 2 and choose.processor_way(torch.bfloat16, queries.shape[-1]).name == "matrix"
    like, step, block = (
        (AS_MATRIX, TILE, MATRIX_BLOCK_KEYS) if in_matrix else (bits(values[:0]).dtype.type(0), TILE_KEYS, BLOCK_KEYS)
    )
    tiles = -(-int(jobs[:, TOKENS].max(initial=1)) * group // TILE_ROWS)
    padded = -(-dim // step) * step
    num_floats = TILE_ROWS * (tiles * (words + padded + 4) + 1 + block) + block * (words + padded) + 2 * LANES
    sizes = (tiles, group, words, dim, padded, block, in_matrix, CONFIGURATION.ctypes.data)
    factor, limit = np.float32(scale * LOG2_E), np.float32(softcap or 0)
    num_parts = min(len(jobs), PARTS_PER_THREAD * torch.get_num_threads() if torch.get_num_threads() > 1 else 1)

    def work(part: int) -> None:
        _attend(jobs[part::num_parts], sizes, like, size == 2, factor, limit, np.empty(num_floats, np.float32))

    each(range(num_parts), work)


@numba.njit(nogil=True, cache=True)
def _attend(
    jobs: Any, sizes: Any, like: Any, paired: bool, factor: Any, limit: Any, scratch: Any
) -> None:  # pragma: no cover - compiled
    """``sizes``: tiles of the longest job, query heads of a key head, words of a key, dimensions of a value, the same in whole tiles; keys of a block; whether
    products go in matrix registers, and where these are told of."""
    most_tiles, group, words, dim, padded, block, in_matrix, told = sizes
    places = _layout(sizes, scratch)
    asked, sums, peaks, totals, lows, highs, _, scores, packed_keys, packed_values = places
    most_rows = most_tiles * TILE_ROWS
    low, high = array_at(pointer(lows, np.int32(0)), most_rows), array_at(pointer(highs, np.int32(0)), most_rows)
    peak, total = array_at(pointer(peaks, np.float32(0)), most_rows), array_at(pointer(totals, np.float32(0)), most_rows)
    size, addresses = (2 if paired else 4), np.empty(LANES, np.int64)
    open_registers(like, told)
    for number in range(len(jobs)):
        job = jobs[number]
        rows, to_key, to_value = job[TOKENS] * group, job[TO_KEY], job[TO_VALUE]
        tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
        lowest = array_at(pointer(job[LOWEST], np.int32(0)), job[TOKENS])
        highest = array_at(pointer(job[HIGHEST], np.int32(0)), job[TOKENS])
        for row in range(tiles * TILE_ROWS):
            token = min(row, rows - 1) // group
            low[row], high[row] = lowest[token], highest[token]
            peak[row], total[row] = np.float32(NOTHING), np.float32(0)
        _gather(job, group, words, rows, asked, sums, padded, addresses)
        end = highest[job[TOKENS] - 1] + 1
        for first in range(lowest[0], end, block):
            stop = min(first + block, end)
            keys, across = job[KEYS] + first * to_key, to_key
            values, along = job[VALUES] + first * to_value, to_value
            if to_key > 4 * words or (in_matrix and (stop - first) % TILE):
                keys, across = _near(keys, to_key, stop - first, words, packed_keys), 4 * words
            if in_matrix:
                values, along = _turned(like, values, to_value, stop - first, sizes, packed_values), 2 * block
            elif paired:
                values, along = _in_pairs(values, to_value, stop - first, dim, packed_values), 4 * dim
            elif to_value > 4 * dim:
                values, along = _near(values, to_value, stop - first, dim, packed_values), 4 * dim
            for tile in range(tiles):
                row, last_row = tile * TILE_ROWS, min(rows, (tile + 1) * TILE_ROWS) - 1
                begin, final = max(first, low[row]), min(stop, high[last_row] + 1)
                if begin < final:
                    if in_matrix:
                        begin -= (begin - first) % STEP_KEYS
                    elif paired:
                        begin -= (begin - first) % 2
                    masked = begin < low[last_row] or final > high[row] + 1
                    skipped, vectors = begin - first, (last_row - row) // LANES + 1
                    some_keys = keys + skipped * across
                    some_values = values + (2 * skipped if in_matrix else (skipped // 2 if paired else skipped) * along)
                    _over_block(
                        like, paired, sizes, factor, limit, places, tile, vectors, masked,
                        some_keys, across, some_values, along, begin, final - begin,
                    )  # fmt: skip
        _scatter(job, group, dim, size, like, rows, sums, padded, peak, total, addresses, scores)
    close_registers(like)


@compiled
def _layout(sizes: Any, scratch: Any) -> Any:  # pragma: no cover - compiled
    """Addresses in scratch memory of what a job holds: queries, sums, the largest scores and totals of its rows, the first and the last key they see; and of what
    a tile holds: how far earlier sums fade, scores, keys and values of a block."""
    most_tiles, _, words, _, padded, block, _, _ = sizes
    vector = 4 * TILE_ROWS
    asked = (scratch.ctypes.data + 63) // 64 * 64
    sums = asked + most_tiles * words * vector
    peaks = sums + most_tiles * padded * vector
    totals = peaks + most_tiles * vector
    lows = totals + most_tiles * vector
    highs = lows + most_tiles * vector
    fade = highs + most_tiles * vector
    scores = fade + vector
    packed_keys = scores + block * vector
    packed_values = (packed_keys + block * words * 4 + 63) // 64 * 64
    return asked, sums, peaks, totals, lows, highs, fade, scores, packed_keys, packed_values


@compiled
def _over_block(
    like: Any, paired: bool, sizes: Any, factor: Any, limit: Any, places: Any, tile: int, vectors: int, masked: bool,
    keys: int, across: int, values: int, along: int, begin: int, count: int,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """One tile of rows over ``count`` keys from ``begin`` on: scores, weights, and their values added to the sums."""
    asked, sums, peaks, totals, lows, highs, fade, scores, _, _ = places
    _, _, words, dim, padded, _, in_matrix, _ = sizes
    shift, wide = tile * 4 * TILE_ROWS, vectors * 4 * LANES
    if in_matrix:
        for key in range(0, count, TILE):
            score_16(vectors, like, (asked + shift * words, words, keys + key * across, across, factor, scores + key * wide))
    else:
        for key in range(0, count, TILE_KEYS):
            last = min(TILE_KEYS, count - key) - 1
            score(vectors, like, (asked + shift * words, words, keys + key * across, across, last, factor, scores + key * wide))
    if limit > 0:
        cap(scores, count * vectors, limit)
    if masked:
        hide(vectors, like, (scores, count, begin, lows + shift, highs + shift))
    steps = count
    if paired:
        steps = (count + 1) // 2
        if count % 2:
            array_at(pointer(scores + count * wide, np.float32(0)), vectors * LANES)[:] = -np.inf
    weigh(vectors, like, (scores, count, peaks + shift, totals + shift, fade))
    if in_matrix:
        spare = -steps % TILE
        _clear(scores + steps * wide, spare * vectors * LANES)
        for place in range(0, padded, TILE):
            into = sums + shift * padded + place * wide
            add_values_16(vectors, like, (scores, steps + spare, values + place * along, along, fade, into))
        return
    for place in range(0, dim, TILE_KEYS):
        last, into = min(TILE_KEYS, dim - place) - 1, sums + shift * padded + place * wide
        add_values(vectors, like, (scores, steps, values + 4 * place, along, last, fade, into))


@compiled
def _gather(
    job: Any, group: int, words: int, rows: int, asked: int, sums: int, padded: int, addresses: Any
) -> None:  # pragma: no cover - compiled
    """Queries of a job as tiles ``(words, rows)``, and sums of zero."""
    for tile in range((rows + TILE_ROWS - 1) // TILE_ROWS):
        first, base = tile * TILE_ROWS, asked + tile * words * 4 * TILE_ROWS
        width = (min(rows - first, TILE_ROWS) + LANES - 1) // LANES * LANES
        for start in range(0, width, LANES):
            for lane in range(LANES):
                row = min(first + start + lane, rows - 1)
                addresses[lane] = job[QUERIES] + row // group * job[TO_TOKEN] + row % group * job[TO_HEAD]
            whole = words // LANES * LANES
            for word in range(0, whole, LANES):
                gather_16(addresses.ctypes.data, 4 * word, base + 4 * (word * width + start), 4 * width)
            for word in range(whole, words):
                to = array_at(pointer(base + 4 * (word * width + start), np.int32(0)), LANES)
                for lane in range(LANES):
                    to[lane] = array_at(pointer(addresses[lane] + 4 * word, np.int32(0)), 1)[0]
        array_at(pointer(sums + tile * padded * 4 * TILE_ROWS, np.float32(0)), padded * width)[:] = 0


@compiled
def _near(rows: int, step: int, count: int, words: int, packed: int) -> int:  # pragma: no cover - compiled
    """Rows that lie far apart, copied: from one page each they would fall on the same few places of the first cache."""
    for row in range(count):
        given = array_at(pointer(rows + row * step, np.int32(0)), words)
        to = array_at(pointer(packed + row * 4 * words, np.int32(0)), words)
        for word in range(words):
            to[word] = given[word]
    return packed


@compiled
def _clear(place: int, num_words: int) -> None:  # pragma: no cover - compiled
    array_at(pointer(place, np.float32(0)), num_words)[:] = 0


@compiled
def _turned(like: Any, rows: int, step: int, count: int, sizes: Any, packed: int) -> int:  # pragma: no cover - compiled
    """Values dimension by dimension, two keys of a block a word: what matrix registers take. Dimensions that are not there are 0."""
    _, _, _, dim, padded, block, _, _ = sizes
    along, whole = 2 * block, dim // TILE * TILE
    for place in range(0, whole, TILE):
        for key in range(0, count, STEP_KEYS):
            turn_pairs(like, rows + 2 * place + key * step, step, count - key, packed + place * along + 2 * key, along)
    for place in range(whole, padded):
        to = array_at(pointer(packed + place * along, np.uint16(0)), block)
        to[:] = 0
        if place < dim:
            for key in range(count):
                to[key] = array_at(pointer(rows + key * step + 2 * place, np.uint16(0)), 1)[0]
    return packed


@compiled
def _in_pairs(rows: int, step: int, count: int, dim: int, packed: int) -> int:  # pragma: no cover - compiled
    """Two rows of bfloat16 side by side, number by number, as one product reads them; beside the last of an odd number lies 0."""
    for row in range(0, count, 2):
        one = array_at(pointer(rows + row * step, np.uint16(0)), dim)
        to = array_at(pointer(packed + row * 2 * dim, np.uint32(0)), dim)
        if row + 1 < count:
            other = array_at(pointer(rows + (row + 1) * step, np.uint16(0)), dim)
            for place in range(dim):
                to[place] = np.uint32(one[place]) | np.uint32(other[place]) << np.uint32(16)
        else:
            for place in range(dim):
                to[place] = np.uint32(one[place])
    return packed


@compiled
def _scatter(
    job: Any,
    group: int,
    dim: int,
    size: int,
    like: Any,
    rows: int,
    sums: int,
    padded: int,
    peak: Any,
    total: Any,
    addresses: Any,
    spare: int,
) -> None:  # pragma: no cover - compiled
    """Outputs and logarithms of a job; ``spare``: a row for what is beyond the last. ``total`` becomes what sums are multiplied with."""
    for tile in range((rows + TILE_ROWS - 1) // TILE_ROWS):
        first, base = tile * TILE_ROWS, sums + tile * padded * 4 * TILE_ROWS
        width = (min(rows - first, TILE_ROWS) + LANES - 1) // LANES * LANES
        for start in range(0, width, LANES):
            for lane in range(LANES):
                row = first + start + lane
                token, head, whole = row // group, row % group, total[row]
                addresses[lane] = job[OUT] + token * job[OUT_TO_TOKEN] + head * job[OUT_TO_HEAD] if row < rows else spare
                total[row] = np.float32(1) / whole if whole != 0 else np.float32(0)
                if job[LSE] and row < rows:
                    lse = array_at(pointer(job[LSE] + head * job[LSE_TO_HEAD] + token * 4, np.float32(0)), 1)
                    lse[0] = (peak[row] + np.log2(whole)) / np.float32(LOG2_E) if whole != 0 else np.float32(-np.inf)
            whole_dim = dim // LANES * LANES
            for place in range(0, whole_dim, LANES):
                scatter_16(
                    like, base + 4 * (place * width + start), 4 * width, total.ctypes.data + 4 * (first + start),
                    addresses.ctypes.data, size * place,
                )  # fmt: skip
            for place in range(whole_dim, dim):
                found = array_at(pointer(base + 4 * (place * width + start), np.float32(0)), LANES)
                for lane in range(LANES):
                    out = array_at(pointer(addresses[lane] + size * place, like), 1)
                    out[0] = narrow(found[lane] * total[first + start + lane], like)
