"""Centroids of token vectors and the nearest of them, in two levels. Knows vectors; knows no residual, document or query.

A coarse k-means makes about sqrt(C) cells and every cell is divided again, so that neither training nor assignment ever compares a
vector with all C centroids: both cost about C / (cells + probed centroids) times less, and the nearest centroid is missed for a few per
cent of the vectors, which then have a slightly longer residual.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rag.kernels.crew import Crew
from rag.retrievers.warp.arrays import as_tensor, frozen
from rag.retrievers.warp.nearest import keep_nearest, largest_of, reference_nearest, sums_by

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NUM_ITERATIONS = 10
NUM_PROBED_CELLS = 4
_COARSE_PER_CELL = 256


@dataclass(frozen=True)
class Centroids:
    """Centroid ``c`` is ``(levels[c] - 128) * steps[c]``: ``levels`` uint8 ``(C, dim)``, ``steps`` float32 ``(C,)``.

    Bytes are all that a search reads of a centroid, and residuals are measured from the rounded centroid, so that rounding costs
    nothing. Cell ``i`` holds rows ``starts[i]`` to ``starts[i + 1]``; ``cells`` float32 ``(cells, dim)``: their middles.
    """

    levels: NDArray[np.uint8]
    steps: NDArray[np.float32]
    cells: NDArray[np.float32]
    starts: NDArray[np.int64]

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """``(C, dim)``."""
        return _vectors(self.levels, self.steps)

    @cached_property
    def _halves(self) -> NDArray[np.float32]:
        return _halves(self.vectors)

    @cached_property
    def _on(self) -> dict[torch.device, tuple[Tensor, Tensor]]:
        return {}

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """``levels`` and ``steps`` as tensors on a device: in memory themselves, on a GPU a copy that is kept."""
        if device not in self._on:
            self._on[device] = as_tensor(frozen(self.levels)).to(device), as_tensor(frozen(self.steps)).to(device)
        return self._on[device]

    def nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The row of the nearest centroid among those of the ``NUM_PROBED_CELLS`` nearest cells, for each of ``(n, dim)``."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        scores = vectors @ self.cells.T - _halves(self.cells)
        num_probed = min(NUM_PROBED_CELLS, len(self.cells))
        near = largest_of(scores, num_probed)
        order = np.argsort(near, axis=None, kind="stable")  # the same vectors, cell by cell
        borders = np.searchsorted(near.ravel()[order], np.arange(len(self.cells) + 1))
        rows = order // num_probed
        best, found = np.full(len(vectors), -np.inf, np.float32), np.zeros(len(vectors), np.int32)
        for cell in range(len(self.cells)):
            here = rows[borders[cell] : borders[cell + 1]]
            first, last = int(self.starts[cell]), int(self.starts[cell + 1])
            keep_nearest(vectors, here, self.levels, self.steps, self._halves, first, last, best, found)
        return found.astype(np.int64)

    def reference_nearest(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """The nearest of all centroids, compared one by one with every vector."""
        return reference_nearest(vectors, self.levels, self.steps)[1]


def train_centroids(sample: NDArray[np.float32], num_centroids: int, seed: int, crew: Crew) -> Centroids:
    """K-means of ``sample`` ``(n, dim)`` into ``num_centroids`` (fewer if there are fewer vectors). The same for the same input, however many threads there are.

    Raises ``ValueError`` unless ``sample`` has a row.
    """
    if not len(sample):
        raise ValueError("centroids need at least one vector to be trained on")
    num_centroids = min(num_centroids, len(sample))
    sample = np.ascontiguousarray(sample, np.float32)
    num_cells = max(1, round(num_centroids**0.5))
    rng = np.random.default_rng(seed)
    coarse = _lloyd(sample, _spread(rng, np.arange(len(sample)), _COARSE_PER_CELL * num_cells), num_cells, rng)
    borders = [len(sample) * part // crew.num_threads for part in range(crew.num_threads + 1)]
    every, rounded = np.arange(len(sample)), _rounded(coarse)
    found = crew.map(lambda ends: _assign(sample[slice(*ends)], every[: ends[1] - ends[0]], *rounded), itertools.pairwise(borders))
    cell_of = np.concatenate(list(found))
    order = np.argsort(cell_of, kind="stable")
    counts = np.bincount(cell_of, minlength=num_cells)
    ends = np.concatenate([[0], np.cumsum(counts)])
    shares = _shares(counts, num_centroids).tolist()

    def divided(cell: int) -> NDArray[np.float32]:
        return _lloyd(sample, order[ends[cell] : ends[cell + 1]], shares[cell], np.random.default_rng([seed, cell]))

    parts = list(crew.map(divided, [cell for cell in range(num_cells) if shares[cell]]))
    starts = np.concatenate([[0], np.cumsum(shares)])
    return Centroids(*_rounded(np.concatenate(parts)), coarse, starts.astype(np.int64))


def _vectors(levels: NDArray[np.uint8], steps: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = (levels.astype(np.float32) - np.float32(128)) * steps[:, None]
    return found


def _halves(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    halves: NDArray[np.float32] = np.einsum("ij,ij->i", vectors, vectors) / np.float32(2)
    return halves


def _rounded(vectors: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    steps = np.maximum(np.abs(vectors).max(1), np.float32(1e-12)) / np.float32(127)
    return (np.rint(vectors / steps[:, None]) + 128).astype(np.uint8), steps.astype(np.float32)


def _assign(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], levels: NDArray[np.uint8], steps: NDArray[np.float32]
) -> NDArray[np.int32]:
    """The nearest centroid of each of ``vectors[rows]``, at that vector's place; 0 elsewhere."""
    return _assign_scored(vectors, rows, levels, steps)[1]


def _assign_scored(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], levels: NDArray[np.uint8], steps: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    best, found = np.full(len(vectors), -np.inf, np.float32), np.zeros(len(vectors), np.int32)
    keep_nearest(vectors, rows, levels, steps, _halves(_vectors(levels, steps)), 0, len(levels), best, found)
    return best, found


def _shares(counts: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """``total`` divided among cells by their counts, at most one for each member, at least one for a cell that is not empty."""
    shares: NDArray[np.int64] = np.minimum(np.maximum(np.floor(counts * (total / counts.sum())), counts > 0), counts).astype(
        np.int64
    )
    for cell in np.argsort(-(counts - shares), kind="stable"):  # what rounding left goes where most vectors share a centroid
        if (missing := total - int(shares.sum())) == 0:
            break
        room = int(counts[cell] - shares[cell]) if missing > 0 else int(shares[cell] - (counts[cell] > 0))
        step = min(abs(missing), max(1, -(-abs(missing) // len(counts))), room)
        shares[cell] += step if missing > 0 else -step
    return shares


def _lloyd(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], num_centroids: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """``NUM_ITERATIONS`` rounds from random members of ``vectors[rows]``.

    A centroid that nobody chooses moves to a vector that lies far from its own.
    """
    own = np.ascontiguousarray(vectors[rows])
    every = np.arange(len(own))
    centroids = own[_spread(rng, every, num_centroids)].copy()
    for _ in range(NUM_ITERATIONS if len(own) > num_centroids else 0):
        best, chosen = _assign_scored(own, every, *_rounded(centroids))
        sums, counts = np.zeros(centroids.shape, np.float32), np.zeros(num_centroids, np.int64)
        sums_by(own, every, chosen, 0, sums, counts)
        alive = counts > 0
        centroids[alive] = sums[alive] / counts[alive, None]
        if num_empty := int((~alive).sum()):
            distance = _halves(own) - best
            centroids[~alive] = own[np.argsort(-distance, kind="stable")[:num_empty]]
    return centroids


def _spread(rng: np.random.Generator, rows: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = rng.permutation(rows)[:wanted]
    return np.sort(drawn)
