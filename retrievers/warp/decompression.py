"""Scores of candidates from residual codes, without rebuilding a vector. Knows codes and query tables; knows no file.

A token's score is that of its centroid plus ``scale * (q . levels)``, its code's levels being ``code - (2^bits - 1) / 2`` in every
dimension (implicit decompression, WARP, arXiv 2501.17788; equal steps instead of quantile buckets, so that products of small integers
replace table look-ups).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from rag.retrievers.warp.lanes import scores_2_16, scores_2_32, scores_4_16, scores_4_32, scores_8_16, scores_8_32


class Tokens(NamedTuple):
    """Coded tokens of all documents, inside a document by ascending centroid; a run are those of one document and one centroid.

    ``token_starts`` and ``run_starts`` int64 ``(documents + 1,)``; ``runs`` uint16 and ``run_lengths`` uint8 ``(runs,)``: centroid and
    number of tokens; ``codes`` uint8 ``(tokens, dim * bits / 8)``; ``scales`` uint8 ``(tokens,)``.
    """

    token_starts: NDArray[np.int64]
    run_starts: NDArray[np.int64]
    runs: NDArray[np.uint16]
    run_lengths: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    scales: NDArray[np.uint8]


@numba.njit(nogil=True, cache=True)
def score_rows(
    rows: Any, first: int, last: int, scores: Any, tokens: Any, scale_unit: Any,
    numbers: Any, units: Any, totals: Any, num_tokens: int, bits: int, out: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """``out[i] +=`` the MaxSim of document ``rows[i]`` with the ``num_tokens`` query tokens of one table, i from ``first`` to ``last``.

    ``scores``: of centroids, ``(C, width)``.
    """
    width, row_bytes = scores.shape[1], tokens.codes.shape[1]
    best, offsets, scratch = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    middle = np.float32((2**bits - 1) / 2)
    for lane in range(width):
        offsets[lane] = -middle * totals[lane]
    table, unit, offset = numbers.ctypes.data, units.ctypes.data, offsets.ctypes.data
    unused, maxima = scratch.ctypes.data, best.ctypes.data
    for place in range(first, last):
        row = rows[place]
        best[:] = -np.inf
        token = tokens.token_starts[row]
        for run in range(tokens.run_starts[row], tokens.run_starts[row + 1]):
            base = scores.ctypes.data + np.int64(tokens.runs[run]) * width * 4
            after = token + np.int64(tokens.run_lengths[run])
            for one in range(token, after):
                codes = tokens.codes.ctypes.data + one * row_bytes
                scale = np.float32(tokens.scales[one]) * scale_unit
                if bits == 4:
                    if width == 16:
                        scores_4_16(codes, row_bytes, table, offset, unit, scale, base, unused, maxima)
                    else:
                        scores_4_32(codes, row_bytes, table, offset, unit, scale, base, unused, maxima)
                elif bits == 2:
                    if width == 16:
                        scores_2_16(codes, row_bytes, table, offset, unit, scale, base, unused, maxima)
                    else:
                        scores_2_32(codes, row_bytes, table, offset, unit, scale, base, unused, maxima)
                elif width == 16:
                    scores_8_16(codes, row_bytes, table, offset, unit, scale, base, unused, maxima)
                else:
                    scores_8_32(codes, row_bytes, table, offset, unit, scale, base, unused, maxima)
            token = after
        total = np.float32(0)
        for lane in range(num_tokens):
            total += best[lane]
        out[place] += total


def reference_maxsim(
    rows: NDArray[np.int64],
    centroids: NDArray[np.float32],
    tokens: Tokens,
    scale_unit: float,
    query: NDArray[np.float32],
    bits: int,
) -> NDArray[np.float32]:
    """MaxSim of whole documents with decompressed vectors and the query as it is; every token is looked at, none is imputed."""
    out = np.empty(len(rows), np.float32)
    for place, row in enumerate(rows):
        some = slice(tokens.token_starts[row], tokens.token_starts[row + 1])
        mine = slice(tokens.run_starts[row], tokens.run_starts[row + 1])
        centroid = np.repeat(tokens.runs[mine], tokens.run_lengths[mine])
        vectors = centroids[centroid] + residuals(tokens.codes[some], tokens.scales[some], scale_unit, bits)
        out[place] = (query @ vectors.T).max(1).sum()
    return out


def residuals(codes: NDArray[np.uint8], scales: NDArray[np.uint8], scale_unit: float, bits: int) -> NDArray[np.float32]:
    """Decoded residuals ``(tokens, dim)``."""
    parts = [(codes >> np.uint8(shift)) & np.uint8(2**bits - 1) for shift in range(0, 8, bits)]
    levels = np.concatenate(parts, axis=1).astype(np.float32) - np.float32((2**bits - 1) / 2)
    found: NDArray[np.float32] = levels * (scales.astype(np.float32) * np.float32(scale_unit))[:, None]
    return found
