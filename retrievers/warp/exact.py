"""Exact MaxSim over plain token vectors: what small segments are searched with, and what every estimate is held against.

Knows vectors, document borders and queries; knows no codec and no file. ``score(Q, D) = sum_i max_j <q_i, d_j>`` (ColBERT,
arXiv 2004.12832).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from rag.kernels.crew import each
from rag.kernels.maxsim import maxsim

_BLOCK_TOKENS = 16_384


def exact_scores(
    vectors: NDArray[np.float16 | np.float32],
    starts: NDArray[np.int64],
    query: NDArray[np.float32],
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.float32]:
    """MaxSim of each document (of ``rows`` only, if given) with ``query`` ``(q, dim)``.

    Document ``i`` has the ``vectors`` ``(tokens, dim)`` from ``starts[i]`` to ``starts[i + 1]``; each has at least one.
    """
    import torch

    rows = np.arange(len(starts) - 1) if rows is None else rows
    out = np.empty(len(rows), np.float32)
    asked = torch.from_numpy(np.ascontiguousarray(query))
    whole = torch.tensor([0, len(query)])

    def score(block: tuple[int, int]) -> None:
        first, last = block
        own = rows[first:last]
        lengths = starts[own + 1] - starts[own]
        borders = np.concatenate([[0], np.cumsum(lengths)])
        if own[-1] - own[0] == len(own) - 1:  # neighbours: one slice
            given = vectors[starts[own[0]] : starts[own[-1] + 1]]
        else:
            given = vectors[np.repeat(starts[own] - borders[:-1], lengths) + np.arange(borders[-1])]
        held = torch.from_numpy(np.array(given))  # a copy: the files are mapped read-only
        out[first:last] = maxsim(asked, whole, held, torch.from_numpy(borders))[0].numpy()

    each(_blocks(rows, starts), score)
    return out


def reference_scores(
    vectors: NDArray[np.float16 | np.float32], starts: NDArray[np.int64], query: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The same, document by document in float64."""
    asked = query.astype(np.float64)
    pairs = itertools.pairwise(starts.tolist())
    return np.array([(asked @ vectors[start:end].astype(np.float64).T).max(1).sum() for start, end in pairs])


def _blocks(rows: NDArray[np.int64], starts: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of ``rows`` of about ``_BLOCK_TOKENS`` tokens, at least one row each."""
    ends = np.cumsum(starts[rows + 1] - starts[rows])
    first = 0
    while first < len(rows):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK_TOKENS, side="right")))
        yield first, last
        first = last
